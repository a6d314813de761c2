"""The key-encryption key in a file: what it wraps only it unwraps, and only in the same place."""

import hashlib
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbs_rim.adapters.secrets import local_kek
from kbs_rim.adapters.secrets.local_kek import LocalKeyEncryptionKey, generate_key_file
from kbs_rim.errors import ConfigurationError, KeyUnavailable

KEY, OLD_KEY = bytes(range(32)), bytes(range(32, 64))


def key_file(folder: Path, content: bytes = KEY, mode: int = 0o600) -> Path:
    path = folder / "kek"
    path.write_bytes(content)
    path.chmod(mode)
    return path


@given(data_key=st.binary(min_size=32, max_size=32), context=st.binary(max_size=100))
async def test_what_is_wrapped_unwraps(data_key: bytes, context: bytes) -> None:
    kek = LocalKeyEncryptionKey([KEY])
    wrapped = await kek.wrap(data_key, context)
    assert data_key not in wrapped
    assert await kek.unwrap(kek.id, wrapped, context) == data_key


@given(position=st.integers(0, 59), bit=st.integers(0, 7))
async def test_no_bit_of_a_wrapped_key_can_change(position: int, bit: int) -> None:
    kek = LocalKeyEncryptionKey([KEY])
    wrapped = bytearray(await kek.wrap(bytes(32), b"context"))
    assert len(wrapped) == 60
    wrapped[position] ^= 1 << bit
    with pytest.raises(KeyUnavailable):
        await kek.unwrap(kek.id, bytes(wrapped), b"context")


async def test_a_wrapped_key_moved_to_another_place_is_refused() -> None:
    kek = LocalKeyEncryptionKey([KEY])
    wrapped = await kek.wrap(bytes(32), b"secret/a/b, version 1")
    with pytest.raises(KeyUnavailable, match="does not belong"):
        await kek.unwrap(kek.id, wrapped, b"secret/a/b, version 2")
    for cut in (b"", wrapped[:5], wrapped[:-1]):
        with pytest.raises(KeyUnavailable):
            await kek.unwrap(kek.id, cut, b"secret/a/b, version 1")


async def test_after_a_rotation_the_newest_key_wraps_and_all_unwrap() -> None:
    before = LocalKeyEncryptionKey([OLD_KEY])
    after = LocalKeyEncryptionKey([KEY, OLD_KEY])
    old = await before.wrap(b"o" * 32, b"")
    new = await after.wrap(b"n" * 32, b"")
    assert after.id == LocalKeyEncryptionKey([KEY]).id != before.id
    assert await after.unwrap(before.id, old, b"") == b"o" * 32
    assert await after.unwrap(after.id, new, b"") == b"n" * 32
    with pytest.raises(KeyUnavailable, match="not configured"):
        await before.unwrap(after.id, new, b"")


async def test_each_wrap_uses_a_nonce_of_its_own() -> None:
    kek = LocalKeyEncryptionKey([KEY])
    assert len({(await kek.wrap(bytes(32), b""))[:12] for _ in range(100)}) == 100


def test_the_id_names_the_key_and_does_not_tell_it() -> None:
    assert LocalKeyEncryptionKey([KEY]).id == hashlib.sha256(b"kbs_rim kek id" + KEY).hexdigest()[:16]
    assert LocalKeyEncryptionKey([KEY]).id != hashlib.sha256(KEY).hexdigest()[:16]


@pytest.mark.parametrize("keys", [[], [b""], [bytes(31)], [bytes(33)], [KEY, bytes(16)]])
def test_keys_of_another_length_are_refused(keys: list[bytes]) -> None:
    with pytest.raises(ConfigurationError):
        LocalKeyEncryptionKey(keys)


def test_a_private_file_is_read(tmp_path: Path) -> None:
    for mode in (0o600, 0o400):
        path = key_file(tmp_path, mode=mode)
        assert LocalKeyEncryptionKey.from_files([path]).id == LocalKeyEncryptionKey([KEY]).id
        path.unlink()


@pytest.mark.parametrize(
    ("mode", "problem"),
    [
        (0o640, "read by its group"),
        (0o604, "read by everybody"),
        (0o644, "read by everybody"),
        (0o620, "changed"),
        (0o602, "changed"),
        (0o666, "changed"),
    ],
)
def test_a_file_that_others_can_use_is_refused(tmp_path: Path, mode: int, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem) as caught:
        LocalKeyEncryptionKey.from_files([key_file(tmp_path, mode=mode)])
    assert "chmod 600" in str(caught.value)


def test_a_file_of_root_may_be_read_by_our_group_as_systemd_and_kubernetes_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def judged(mode: int, owner: int, we: int) -> str | None:
        monkeypatch.setattr(os, "geteuid", lambda: we)
        return local_kek._exposure(Path("/etc/kek"), os.stat_result((stat.S_IFREG | mode, 0, 0, 1, owner, 0, 32, 0, 0, 0)))

    assert judged(0o440, owner=0, we=10001) is None
    assert judged(0o440, owner=0, we=0) is not None
    assert judged(0o440, owner=1000, we=1000) is not None
    assert judged(0o460, owner=0, we=10001) is not None
    assert judged(0o444, owner=0, we=10001) is not None


def test_a_secret_that_a_container_engine_mounted_may_be_readable_and_not_writable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(local_kek, "_MOUNTED_SECRETS", tmp_path)
    assert LocalKeyEncryptionKey.from_files([key_file(tmp_path, mode=0o444)]).id
    with pytest.raises(ConfigurationError):
        LocalKeyEncryptionKey.from_files([key_file(tmp_path, mode=0o464)])


@pytest.mark.parametrize("content", [b"", KEY[:31], KEY + b"\n", KEY * 2])
def test_a_file_of_another_length_is_refused_without_its_content(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ConfigurationError, match="exactly 32 bytes") as caught:
        LocalKeyEncryptionKey.from_files([key_file(tmp_path, content)])
    assert repr(KEY[:8])[2:-1] not in str(caught.value)


def test_what_is_not_a_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    for path in (pipe, tmp_path, tmp_path / "missing"):
        with pytest.raises(ConfigurationError):
            LocalKeyEncryptionKey.from_files([path])


def test_a_generated_key_is_private_and_never_replaces_another(tmp_path: Path) -> None:
    path = tmp_path / "kek"
    generate_key_file(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    content = path.read_bytes()
    assert len(content) == 32
    assert len(set(content)) > 8
    with pytest.raises(FileExistsError):
        generate_key_file(path)
    assert path.read_bytes() == content
