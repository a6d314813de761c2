"""Debian's own archive, where it can be reached: its signatures, its packages, and digests that somebody else computed."""

import json
import shutil
import subprocess
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import pytest

from kbs_rim.appraisal.workload import Role
from kbs_rim.errors import OurFault
from kbs_rim.image_sources.apt_source import AptRepository, AptSource
from kbs_rim.image_sources.collecting import Collector
from kbs_rim.image_sources.requests import ImageRequest, RequestKind
from kbs_rim.image_sources.sources_file import Sources

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
TARGETS = ("apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME) $(ORIGIN) $(COMPONENT)", "Created-By: Packages")
SMALL_PACKAGES = ("qemu-efi-aarch64", "shim-signed", "grub-efi-arm64-signed")
T = TypeVar("T")
BOOKWORM_STABLE = "4D64FEC119C2029067D6E791F8D2585B8783D481"


@pytest.fixture(scope="module")
def source() -> AptSource:
    """Debian 12 from the mirror that this machine uses."""
    if not KEYRING.is_file() or not shutil.which("apt-get"):
        pytest.skip("the keyring of Debian's archive, or apt, is not installed")
    listed = subprocess.run(TARGETS, capture_output=True, text=True, check=False).stdout.splitlines()
    mirrors = [line.split()[0] for line in listed if line.split()[1:] == ["bookworm", "Debian", "main"]]
    if not mirrors or not mirrors[0].startswith("http"):
        pytest.skip("this machine has no mirror of Debian 12 among its apt sources")
    try:
        with urllib.request.urlopen(f"{mirrors[0].rstrip('/')}/dists/bookworm/InRelease", timeout=5) as answer:
            answer.read(1)
    except OSError as error:
        pytest.skip(f"Debian's archive cannot be reached: {error}")
    return AptSource(name="debian", uri=mirrors[0], suite="bookworm", keyring=KEYRING, origin="Debian")


@pytest.fixture(scope="module")
def debian(source, tmp_path_factory) -> Collector:
    return Collector(Sources((source,)), datetime.now(UTC), cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def chain() -> dict[str, dict]:
    path = Path(__file__).parent.parent / "vectors" / "images" / "debian-chain.json"
    return {package["package"]: package for package in json.loads(path.read_text())}


def reached(work: Callable[[], T]) -> T:
    """Do what needs the mirror; a mirror that fails says nothing of the code."""
    try:
        return work()
    except OurFault as error:
        pytest.skip(f"Debian's archive cannot be reached: {error}")


def test_the_archive_is_signed_by_the_keys_that_were_seen(debian, source, chain):
    verified = reached(lambda: debian.repository(source).release())
    seen = chain["qemu-efi-aarch64"]["release"]
    assert (verified.release.origin, verified.release.codename) == (seen["origin"], seen["codename"])
    assert verified.release.by_hash
    if verified.sha256 == seen["inrelease_sha256"]:
        assert {signer.key for signer in verified.signed.signers} == set(seen["signers"])


def test_a_keyring_of_one_key_is_enough_although_gpgv_then_fails(source):
    """gpgv exits with 2 as soon as it lacks the key of one of several signatures."""
    single = Path("/usr/share/keyrings/debian-archive-bookworm-stable.gpg")
    if not single.is_file():
        pytest.skip("Debian's keyrings of single keys are not installed")
    pinned = replace(source, keyring=single, signed_by=(BOOKWORM_STABLE,))
    signers = reached(AptRepository(pinned, now=datetime.now(UTC)).release).signed.signers
    assert [signer.primary for signer in signers] == [BOOKWORM_STABLE]


@pytest.mark.parametrize("name", SMALL_PACKAGES)
def test_packages_hold_what_somebody_else_found_in_them(debian, chain, name):
    expected = chain[name]
    paths = tuple(file["path"] for file in expected["files"] if "sha256" in file and "VARS" not in file["path"])
    request = ImageRequest(kind=RequestKind.APT, value=name, patterns=paths, roles=(Role.FIRMWARE,))
    images = reached(lambda: debian.collect(request))
    if images[0].provenance["package-version"] != expected["version"]:
        pytest.skip(f"the archive has {images[0].provenance['package-version']} now")
    assert images[0].provenance["package-sha256"] == expected["deb_sha256"]
    found = {
        place.path: image.found.measurements.to_document()["file_digests"]["sha256"]
        for image in images
        for place in image.found.locations
    }  # fmt: skip
    assert found == {file["path"]: file["sha256"] for file in expected["files"] if file["path"] in paths}
