"""Which bytes were hashed: found under any type, never invented."""

import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_forge import SHA256, ima_ng, tagged

from kbs_rim.evidence.event_log import ImaTemplate, MeasuredEvent, OpaqueContent, RegisterKind, TcgContent
from kbs_rim.evidence.event_preimage import preimage_of
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.evidence.tcg_names import EVENT_TYPES

ALGORITHM = HashAlgorithm.SHA256
VARIABLE = struct.pack("<16sQQ", bytes(16), 2, 3) + "db".encode("utf-16-le") + b"abc"
types = st.sampled_from(sorted(EVENT_TYPES))


def event(content, digest: bytes, measured: bool = True) -> MeasuredEvent:
    return MeasuredEvent(0, 1, RegisterKind.MR, "", {SHA256: digest}, content, measured)


def hashed(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


@pytest.mark.parametrize(
    ("data", "of"),
    [
        (b"data", b"data"),
        (b"text\0\0", b"text"),
        (b"stray\0", b"stray"),
        (b"x\0y", b"x\0"),
        (b"odd", b"odd\0"),
        (b"grub_cmd: set a=b\0", b"set a=b"),
        (b"grub_cmd set a=b\0\xff", b"set a=b\0"),
        (b"kernel_cmdline: /k a\0", b"/k a"),
        (b"grub_kernel_cmdline /k a\0", b"/k a"),
        (b"module_cmdline: /m\0", b"/m"),
        (".linux\0".encode("utf-16-le"), b".linux\0"),
        (VARIABLE, b"abc"),
        (tagged(1, b"inside"), b"inside"),
        (b"name".ljust(16, b"\0") + b"\4\0\0\0blob", b"blob"),
        (b"anything", bytes(4)),
        (b"anything", b"\xff" * 4),
        (b"anything", b"\1\0\0\0"),
        (b"MokListTrusted\0", b"\1"),
    ],
)
@given(event_type=types)
def test_whatever_the_type(data, of, event_type):
    assert preimage_of(event(TcgContent(event_type, data), hashed(of)), ALGORITHM) == of


@given(types, st.binary(max_size=80), st.binary(min_size=32, max_size=32))
def test_bytes_are_never_invented(event_type, data, digest):
    found = preimage_of(event(TcgContent(event_type, data), digest), ALGORITHM)
    assert found is None or hashed(found) == digest


def test_other_contents():
    entry = ima_ng(b"/bin/sh")
    assert preimage_of(event(ImaTemplate("ima-ng", entry), hashed(entry)), ALGORITHM) == entry
    padded = hashlib.sha1(entry).digest().ljust(32, b"\0")
    assert preimage_of(event(ImaTemplate("ima-ng", entry), padded), ALGORITHM) == entry
    assert preimage_of(event(TcgContent(0xD, entry), padded), ALGORITHM) is None, "only IMA pads"
    assert preimage_of(event(OpaqueContent(80, b"x"), hashed(b"x")), ALGORITHM) == b"x"
    assert preimage_of(event(OpaqueContent(80, b"x"), hashed(b"\x50\0\0\0\1x")), ALGORITHM) == b"\x50\0\0\0\1x"


def test_what_extends_nothing_has_none():
    assert preimage_of(event(TcgContent(3, b"x"), hashed(b"x"), measured=False), ALGORITHM) is None
    assert preimage_of(event(TcgContent(5, b"x"), hashed(b"x")), HashAlgorithm.SHA512) is None
