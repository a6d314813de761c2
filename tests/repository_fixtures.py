"""Keys and a repository for tests of signed sources."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.package_forge import Package, Repository, Signer, arm64_kernel


@pytest.fixture(scope="session")
def signers() -> Iterator[tuple[Signer, Signer]]:
    """The archive's key, and a stranger's."""
    if not (shutil.which("gpg") and shutil.which("gpgv")):
        pytest.skip("gpg and gpgv are needed to sign and check a repository")
    pair = (Signer("archive"), Signer("stranger"))
    yield pair
    for signer in pair:
        signer.close()


@pytest.fixture
def repository(tmp_path: Path, signers: tuple[Signer, Signer]) -> Repository:
    """A published repository with one kernel."""
    package = Package("linux-image-1", "6.1-1", (("./boot/", b""), ("./boot/vmlinuz-1", arm64_kernel())))
    made = Repository(tmp_path / "repository", signers[0], [package])
    made.publish()
    signers[0].keyring(tmp_path / "archive.gpg")
    return made
