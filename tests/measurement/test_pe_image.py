"""PE headers and Authenticode digests: against a slow implementation, against real files' layouts, and against liars."""

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.limits import DEFAULT_LIMITS, Limits
from kbs_rim.measurement.image import ImageKind, measure_image, measure_stream
from kbs_rim.measurement.pe_image import read_pe_headers
from tests.pe_builder import PE_AT, PeFile, Section, signed, slow_authenticode

SECTIONS = (Section(".text", b"code" * 300), Section(".data", b"data" * 10), Section(".bss", b"", virtual_size=0x4000))
GOOD = PeFile(SECTIONS)


def facts_of(data: bytes, limits: Limits = DEFAULT_LIMITS):
    facts = measure_image(data, limits).pe
    assert facts is not None
    return facts


@pytest.mark.parametrize("plus", [True, False])
@pytest.mark.parametrize("directories", [0, 4, 5, 16])
def test_the_digest_is_that_of_the_specification(plus, directories):
    data = PeFile(SECTIONS, plus=plus, directories=directories, trailer=b"symbols").build()
    facts = facts_of(data)
    assert facts.machine == 0xAA64
    for algorithm in HashAlgorithm:
        assert facts.authenticode[algorithm] == slow_authenticode(data, algorithm)
        assert facts.authenticode[algorithm] != algorithm.digest(data)


@pytest.mark.parametrize("trailer", [b"", b"1234567", b"12345678"])
@pytest.mark.parametrize("plus", [True, False])
def test_what_an_unsigned_file_will_be_once_signed(plus, trailer):
    data = PeFile(SECTIONS, plus=plus, trailer=trailer).build()
    before, after = facts_of(data), facts_of(signed(data, plus))
    assert (before.certificates_size, after.certificates_size) == (0, 176)
    assert after.authenticode_padded is None
    assert (before.authenticode_padded is None) == (len(data) % 8 == 0)
    assert after.authenticode == (before.authenticode_padded or before.authenticode)
    assert (after.authenticode == before.authenticode) == (len(data) % 8 == 0)


@given(
    st.lists(st.binary(max_size=700), max_size=6).flatmap(lambda parts: st.tuples(st.just(parts), st.permutations(range(len(parts))))),
    st.booleans(),
    st.binary(max_size=20),
    st.sampled_from([16, 0x200]),
)
def test_any_sections_in_any_order_of_the_table(parts_and_order, plus, trailer, alignment):
    parts, order = parts_and_order
    sections = [Section(f".s{index}", part) for index, part in enumerate(parts)]
    data = PeFile(sections, plus=plus, table_order=order, trailer=trailer, alignment=alignment).build()
    assert facts_of(data).authenticode[HashAlgorithm.SHA256] == slow_authenticode(data)
    sealed = signed(data, plus)
    assert facts_of(sealed).authenticode[HashAlgorithm.SHA256] == slow_authenticode(sealed)


@given(st.integers(0, 3), st.binary(min_size=1, max_size=40))
def test_a_changed_bit_changes_the_digest_unless_it_is_checksum_or_certificate(which, noise):
    data = bytearray(signed(GOOD.build()))
    places = (PE_AT + 24 + 64, len(data) - 40, 0x210, PE_AT + 8)
    before = facts_of(bytes(data)).authenticode
    at = places[which]
    length = min(len(noise), 4)
    data[at : at + length] = bytes(byte ^ (value | 1) for byte, value in zip(data[at : at + length], noise, strict=False))
    assert (facts_of(bytes(data)).authenticode == before) == (which < 2)


def test_a_hole_between_sections_is_hashed_as_firmware_does():
    """EDK2 counts what it hashed and goes on from that offset, so a hole makes it hash the end of the last section twice."""
    data = PeFile((Section(".a", b"a" * 512), Section(".b", b"b" * 512, at=0x600))).build()
    assert len(data) == 0x800
    assert facts_of(data).authenticode[HashAlgorithm.SHA256] == slow_authenticode(data)


def test_an_image_is_the_same_in_chunks_of_any_size():
    data = PeFile((*SECTIONS, Section(".big", bytes(range(256)) * 3000)), trailer=b"123").build()
    for step in (1 << 20, 4096, 777):
        assert measure_stream((data[at : at + step] for at in range(0, len(data), step)), len(data)) == measure_image(data)


def test_layouts_of_real_files(vectors):
    """Rebuild the headers of 16 distributed files from the ranges that three other tools agree on."""
    files = json.loads((vectors / "images" / "authenticode.json").read_text())["files"]
    assert len(files) == 16
    for item in files:
        ranges = [tuple(pair) for pair in item["hashed_regions"]]
        pe_at, entry, headers_size = ranges[0][1] - 24 - 64, ranges[1][1], ranges[2][1]
        assert entry == pe_at + 24 + 112 + 32
        contents_end = item["size"] - item["cert_table"][1]
        sections = [Section(".s", b"", raw_size=end - at, at=at, virtual_size=end - at) for at, end in ranges[3:]]
        if contents_end % 0x200 and not item["size_mod_8"]:
            sections.pop()  # the last range lies behind the sections: symbols
        file = PeFile(sections, pe_at=pe_at, headers_size=headers_size, certificate=tuple(item["cert_table"]), machine=0xAA64)
        headers = read_pe_headers(file.build()[:4096], item["size"])
        assert [(span.start, span.end) for span in headers.authenticode if span.size] == ranges, item["path"]
        assert headers.certificates_size == item["cert_table"][1]
        padded = headers.authenticode_padded
        assert (padded is not None) == ("authenticode_padded_to_8" in item)
        assert padded is None or padded == (*headers.authenticode, bytes(8 - item["size_mod_8"]))


def overlap(first: tuple[int, int], second: tuple[int, int]) -> bytes:
    return PeFile([Section(".a", b"", at=first[0], raw_size=first[1]), Section(".b", b"", at=second[0], raw_size=second[1])]).build()


SEALED = signed(GOOD.build())
CONTENTS_END = len(GOOD.build())
ENTRY_AT = PE_AT + 24 + 112 + 32


def with_certificates(start: int, size: int) -> bytes:
    return SEALED[:ENTRY_AT] + struct.pack("<II", start & 0xFFFFFFFF, size & 0xFFFFFFFF) + SEALED[ENTRY_AT + 8 :]


HOSTILE = {
    "COFF header cut": GOOD.build()[: PE_AT + 10],
    "optional header cut": GOOD.build()[: PE_AT + 24 + 50],
    "no optional header": PeFile(SECTIONS, optional_size=0).build(),
    "optional header shorter than its directories": PeFile(SECTIONS, optional_size=112 + 8 * 5).build(),
    "a million directories": GOOD.build()[: PE_AT + 24 + 108] + struct.pack("<I", 1_000_000) + GOOD.build()[PE_AT + 24 + 112 :],
    "17 directories": PeFile(SECTIONS, directories=17).build(),
    "unknown magic": PeFile(SECTIONS, magic=0x107).build(),
    "SizeOfHeaders 0": PeFile(SECTIONS, headers_size=0).build(),
    "SizeOfHeaders inside the section table": PeFile(SECTIONS, headers_size=PE_AT + 24 + 112 + 48 + 40).build(),
    "SizeOfHeaders beyond the file": PeFile(SECTIONS, headers_size=1 << 20).build()[:0x1000],
    "SizeOfHeaders over the first section": PeFile([Section(".a", b"x" * 512, at=0x200)], headers_size=0x210).build(),
    "65535 sections": PeFile(SECTIONS, section_count=0xFFFF, headers_size=0x400).build(),
    "one section more than the table has room for": PeFile(SECTIONS, section_count=4, headers_size=PE_AT + 24 + 160 + 120).build(),
    "section over the headers": overlap((0x100, 0x200), (0x400, 0x200)),
    "section at 0": overlap((0, 0x200), (0x400, 0x200)),
    "sections overlap by one byte": overlap((0x200, 0x201), (0x400, 0x200)),
    "one section twice": overlap((0x200, 0x200), (0x200, 0x200)),
    "one section inside another": overlap((0x200, 0x800), (0x400, 0x200)),
    "section beyond the file": PeFile([Section(".a", b"x" * 512)]).build()[:-1],
    "section at the end of 32 bits": PeFile([Section(".a", b"", at=0xFFFFFFFF, raw_size=0xFFFFFFFF)]).build(),
    "certificate table in the middle": with_certificates(CONTENTS_END, 100),
    "certificate table longer than the file": with_certificates(CONTENTS_END, 1 << 31),
    "certificate table over the headers": with_certificates(8, len(SEALED) - 8),
    "certificate table over the last section": with_certificates(CONTENTS_END - 8, len(SEALED) - CONTENTS_END + 8),
    "certificate table at an odd place": PeFile(SECTIONS, trailer=b"123" + b"c" * 16, certificate=(CONTENTS_END + 3, 16)).build(),
    "certificate table at 0": with_certificates(0, len(SEALED)),
    "certificate table whose end overflows": with_certificates(0xFFFFFFF8, len(SEALED) + 8),
    "header far into the file": b"MZ" + bytes(58) + struct.pack("<I", 200_000) + bytes(200_000),
    "header across the limit": PeFile(SECTIONS, pe_at=DEFAULT_LIMITS.pe_header_bytes - 100, headers_size=0x21000).build(),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_file_that_firmware_would_refuse(what):
    with pytest.raises(MalformedEvidence) as refused:
        measure_image(HOSTILE[what])
    assert refused.value.finding_id == "image.pe"


@pytest.mark.parametrize(
    "data",
    [
        b"MZ",
        b"MZ" + bytes(61),
        b"MZ" + bytes(100),
        b"MZ" + bytes(58) + b"\xff\xff\xff\xff" + bytes(100),
        b"MZ" + bytes(58) + struct.pack("<I", 161) + bytes(100),
        b"MZ" + bytes(58) + struct.pack("<I", 64) + b"PE\0\1" + bytes(100),
        b"ZM" + GOOD.build()[2:],
        b"PE",
    ],
)
def test_what_is_no_pe_file_is_measured_as_before(data):
    measured = measure_image(data)
    assert (measured.kind, measured.pe) == (ImageKind.BLOB, None)


def test_a_file_without_a_dos_header():
    """EDK2 takes the PE header at the start of the file then."""
    data = PeFile(SECTIONS, pe_at=0, dos=b"").build()
    assert data[:4] == b"PE\0\0"
    assert facts_of(data).authenticode[HashAlgorithm.SHA256] == slow_authenticode(data)


def kernel(data: bytes) -> bytes:
    """Make an arm64 Image of a PE file: the magic stands in the DOS header."""
    return data[:16] + struct.pack("<QQ", 0x2010000, 0xA) + data[32:56] + b"ARMd" + data[60:]


def test_a_kernel_with_an_efi_stub_is_a_kernel_and_a_pe_file():
    data = kernel(GOOD.build())
    measured = measure_image(data)
    assert measured.kind is ImageKind.ARM64_IMAGE
    assert measured.pe is not None
    assert measured.pe.authenticode[HashAlgorithm.SHA256] == slow_authenticode(data)


def test_a_kernel_that_no_firmware_would_load_can_still_be_booted_without_one():
    measured = measure_image(kernel(PeFile(SECTIONS, headers_size=0).build()))
    assert (measured.kind, measured.pe) == (ImageKind.ARM64_IMAGE, None)


@given(st.binary(max_size=600), st.integers(0, 599), st.integers(1, 255))
def test_a_damaged_header_is_read_or_refused_and_nothing_else(noise, at, change):
    data = bytearray(SEALED)
    data[at] ^= change
    for candidate in (bytes(data), bytes(data[:at]), GOOD.build()[:PE_AT] + b"PE\0\0" + noise):
        found, finding = outcome(candidate)
        assert finding in (None, "image.pe")
        assert found is None or all(span.end <= len(candidate) for span in found.authenticode)


def outcome(data: bytes):
    try:
        return read_pe_headers(data, len(data)), None
    except MalformedEvidence as error:
        return None, error.finding_id


def test_limits_are_settings():
    with pytest.raises(MalformedEvidence, match="too many sections"):
        measure_image(GOOD.build(), Limits(pe_sections=2))
    with pytest.raises(MalformedEvidence, match="too far"):
        measure_image(GOOD.build(), Limits(pe_header_bytes=300))
