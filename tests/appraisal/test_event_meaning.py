"""What hashed bytes can mean, register by register; languages that must not meet do not."""

import lzma
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_forge import SHA256, ima_fields, tagged

from kbs_rim.appraisal.event_meaning import BINDING, Meaning, could_name_a_kernel, meanings_of, plain_text, wide_text
from kbs_rim.appraisal.runtime_logs import LoggedEvent
from kbs_rim.evidence.event_log import ImaTemplate, MeasuredEvent, RegisterKind, TcgContent
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.evidence.log_label import parse_label

GLOBAL, SECURITY = (bytes.fromhex(text) for text in ("61dfe48bca93d211aa0d00e098032b8c", "cbb219d73a3d9645a3bcdad00e67656f"))
OPTION = b"\1\0\0\0\4\0" + "disk\0".encode("utf-16-le") + b"\x7f\xff\4\0"


def variable(name: str, data: bytes, guid: bytes = GLOBAL) -> bytes:
    return struct.pack("<16sQQ", guid, len(name), len(data)) + name.encode("utf-16-le") + data


def signature_list(size: int = 48) -> bytes:
    return struct.pack("<16sIII", bytes(16), 28 + size, 0, size) + bytes(size)


def kinds(rem: int, hashed: bytes | None, content=None) -> set[Meaning]:
    digest = HashAlgorithm.SHA256.digest(hashed or b"")
    measured = MeasuredEvent(0, rem + 1, RegisterKind.MR, "", {SHA256: digest}, content or TcgContent(0xD, b""), measured=True)
    return {meaning.kind for meaning in meanings_of(LoggedEvent(parse_label("cc"), rem, measured, digest, hashed))}


@pytest.mark.parametrize(
    ("rem", "hashed", "found"),
    [
        (0, bytes(4), {Meaning.SEPARATOR}),
        (0, b"\xff" * 4, {Meaning.SEPARATOR}),
        (0, b"\1\0\0\0", {Meaning.ERROR_SEPARATOR, Meaning.BOOT_ORDER}),
        (0, "2026.08\0".encode("utf-16-le"), {Meaning.FIRMWARE_VERSION}),
        (0, b"\0\0", {Meaning.FIRMWARE_VERSION, Meaning.BOOT_ORDER}),
        (0, b"\1\0\2\0\0\0", {Meaning.BOOT_ORDER}),
        (0, b"\1\0\1\0", set()),
        (0, OPTION, {Meaning.BOOT_OPTION}),
        (0, b"\4" + OPTION[1:], set()),
        (0, OPTION[:-1], set()),
        (0, variable("SecureBoot", b"\1"), {Meaning.SECURE_BOOT_VARIABLE}),
        (0, variable("SecureBoot", b""), {Meaning.SECURE_BOOT_VARIABLE}),
        (0, variable("SecureBoot", b"\1", SECURITY), {Meaning.VARIABLE}),
        (0, variable("db", signature_list() * 2, SECURITY), {Meaning.SECURE_BOOT_VARIABLE}),
        (0, variable("db", b"", SECURITY), {Meaning.SECURE_BOOT_VARIABLE}),
        (0, variable("db", bytes(16) + b"\x30\x82 a certificate", SECURITY), {Meaning.VARIABLE}),
        (0, variable("SbatLevel", b"sbat,1"), {Meaning.VARIABLE}),
        (0, b"an action", {Meaning.ACTION}),
        (1, b"Exit Boot Services Invocation", {Meaning.ACTION}),
        (1, variable("SecureBoot", b"\1"), set()),
        (2, b"set root=hd0,gpt2", {Meaning.BOOT_TEXT}),
        (2, b"set root=hd0,gpt2\0", {Meaning.BOOT_TEXT}),
        (2, b"/vmlinuz quiet", {Meaning.KERNEL_TEXT}),
        (2, b"(hd0,gpt2)0+99 quiet", {Meaning.KERNEL_TEXT}),
        (2, "quiet\0".encode("utf-16-le"), {Meaning.LOAD_OPTIONS}),
        (2, "quiet".encode("utf-16-le"), {Meaning.LOAD_OPTIONS}),
        (2, "quiet\tinit=/x".encode("utf-16-le"), set()),
        (2, b"quiet\tinit=/x", set()),
        (2, "caf\u00e9".encode("utf-16-le"), set()),
        (2, b".linux\0", {Meaning.SECTION_NAME, Meaning.BOOT_TEXT}),
        (2, b".other\0", {Meaning.BOOT_TEXT}),
        (2, b"\1", {Meaning.MOK_LIST_TRUSTED}),
        (2, b"1\0", {Meaning.KERNEL_TEXT, Meaning.LOAD_OPTIONS}),
        (2, b"", {Meaning.LOAD_OPTIONS}),
        (3, tagged(0x4141454C, b"domain operation content"), {Meaning.AGENT_EVENT}),
        (3, tagged(0x4141454D, b"domain operation content"), set()),
        (3, tagged(0x4141454C, b"domain operation"), set()),
        (2, tagged(0x4141454C, b"domain operation content"), set()),
        (3, b"set root=hd0", set()),
        (2, None, set()),
    ],
)
def test_meanings(rem, hashed, found):
    assert kinds(rem, hashed) == found


def test_entries_of_ima_are_those_of_templates_that_kernels_have():
    entry = struct.pack("<I", 40) + b"sha256:\0" + bytes(32) + struct.pack("<I", 5) + b"/bin\0"
    assert kinds(2, entry, ImaTemplate("ima-ng", entry)) == {Meaning.IMA_ENTRY}
    assert kinds(0, entry, ImaTemplate("ima-ng", entry)) == set()
    assert kinds(2, entry, ImaTemplate("a|b", entry)) == set()
    assert kinds(2, bytes(4), ImaTemplate("ima-ng", entry)) == {Meaning.SEPARATOR}, "the entry is not what was hashed"


@given(st.text(alphabet=st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=2, max_size=60))
def test_text_of_one_width_is_none_of_the_other(text):
    """The kernel's own command line in UTF-16 is never text of GRUB, nor the other way round; but for a single letter, which is both."""
    assert plain_text(text.encode("utf-16-le")) is None
    assert plain_text(text.encode()) == text
    assert not {Meaning.BOOT_TEXT, Meaning.KERNEL_TEXT} & kinds(2, text.encode("utf-16-le"))
    assert Meaning.LOAD_OPTIONS not in kinds(2, text.encode())
    assert wide_text(text.encode("utf-16-le") + b"\0\0") == text


@given(
    st.integers(0, 3), st.binary(max_size=300).map(lambda data: b"MZ" + data) | st.binary(max_size=300).map(lambda data: b"PE\0\0" + data)
)
def test_programs_mean_nothing_that_is_let_in_unasked(rem, program):
    """What firmware would start has an offset of its header at 60, whose upper bytes are zero."""
    program = program.ljust(60, b"x")[:60] + struct.pack("<I", 64) + b"PE\0\0" + bytes(200)
    assert (
        kinds(rem, program) & {Meaning.SEPARATOR, Meaning.ACTION, Meaning.BOOT_TEXT, Meaning.SECTION_NAME, Meaning.MOK_LIST_TRUSTED}
        == set()
    )


@given(st.text(max_size=30))
def test_what_could_name_a_kernel_is_never_a_mere_command(text):
    if could_name_a_kernel(text) and plain_text(text.encode("utf-8", "replace")) == text:
        assert Meaning.KERNEL_TEXT in kinds(2, text.encode())
    assert Meaning.KERNEL_TEXT in BINDING


def test_attack_initrd_dressed_up_as_an_entry_of_ima():
    """Linux skips zeros before an initrd, and two bytes of a length are the head of an LZMA stream: the same bytes are both."""
    size = 0x5D00
    packed = lzma.compress(b"cpio archive with an /init of the host", format=lzma.FORMAT_ALONE)
    assert packed[:3] == b"\x5d\0\0"
    entry = ima_fields(b"", b"", packed[3:].ljust(size, b"\0"))
    unpacked = lzma.LZMADecompressor(lzma.FORMAT_ALONE).decompress(entry.lstrip(b"\0"))
    assert unpacked == b"cpio archive with an /init of the host"
    for name in ("ima-buf", "ima-sig"):
        assert kinds(2, entry, ImaTemplate(name, entry)) == set()


@pytest.mark.parametrize("fields", [(b"", b"/bin/sh\0"), (b"sha256:\0" + bytes(32), b""), (b"sha256:\0" + bytes(32), b"\0")])
def test_an_entry_of_ima_has_a_digest_and_a_path(fields):
    entry = ima_fields(*fields)
    assert kinds(2, entry, ImaTemplate("ima-ng", entry)) == set()
