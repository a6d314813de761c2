"""The records that only VMMs write."""

import struct

import pytest

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.vmm_records import (
    VmVersionLayout,
    parse_init_ripas,
    parse_realm_create,
    parse_rec_create,
    parse_vm_version,
)

HEAD = (b"VM VERSION", b"kvmtool", b"3.18")
LAYOUTS = {
    VmVersionLayout.PACKED: struct.pack("<16s32s40sQI", *HEAD, 1 << 30, 4),
    VmVersionLayout.EMITTER: struct.pack("<16s32s40sQIIQ", *HEAD, 1 << 30, 4, 0xDEADBEEF, 0),
    VmVersionLayout.DOCUMENTED: struct.pack("<16s32s40sQQQI", *HEAD, 2 << 20, 1024, 1 << 30, 4),
}


@pytest.mark.parametrize("layout", list(VmVersionLayout))
def test_three_vm_version_layouts_are_told_apart_by_size(layout):
    """The reference reader takes the documented layout's log address for the RAM size; we must not."""
    record = parse_vm_version(LAYOUTS[layout])
    assert (record.layout, record.name, record.version, record.ram_size, record.num_cpus) == (layout, "kvmtool", "3.18", 1 << 30, 4)


@pytest.mark.parametrize("size", [0, 16, 88, 99, 101, 111, 113, 115, 117, 200])
def test_vm_version_of_another_size_is_refused(size):
    data = LAYOUTS[VmVersionLayout.DOCUMENTED].ljust(200, b"\0")[:size]
    with pytest.raises(MalformedEvidence) as caught:
        parse_vm_version(data)
    assert caught.value.finding_id == "log.event-data"


def test_vm_version_text_ends_at_its_nul():
    data = LAYOUTS[VmVersionLayout.EMITTER].replace(b"kvmtool\0", b"kvmtool\0"[:4] + b"\0junk"[:4])
    assert parse_vm_version(data).name == "kvmt"


@pytest.mark.parametrize("name", [b"\x1b[2J", b"\xff\xfe", b"a\nb"])
def test_vm_version_text_must_be_printable_ascii(name):
    data = struct.pack("<16s32s40sQI", b"VM VERSION", name, b"1", 1, 1)
    with pytest.raises(MalformedEvidence, match="printable"):
        parse_vm_version(data)


def test_realm_create_of_14_and_of_16_bytes():
    raw = bytes.fromhex("0600000000000080") + bytes([41, 1, 5, 3, 6, 1])
    expected = (0x8000000000000006, 41, 1, 5, 3, 6, 1)
    assert tuple(parse_realm_create(raw)) == expected
    assert tuple(parse_realm_create(raw + b"\xaa\x55")) == expected
    for size in (0, 13, 15, 17):
        with pytest.raises(MalformedEvidence):
            parse_realm_create(raw.ljust(size, b"\0")[:size])


def test_init_ripas_and_rec_create_have_one_size():
    assert tuple(parse_init_ripas(struct.pack("<QQ", 1, 2))) == (1, 2)
    assert parse_rec_create(struct.pack("<10Q", *range(10))) == (0, 1, tuple(range(2, 10)))
    for parse, size in ((parse_init_ripas, 16), (parse_rec_create, 80)):
        for wrong in (0, size - 1, size + 1):
            with pytest.raises(MalformedEvidence) as caught:
                parse(bytes(wrong))
            assert caught.value.finding_id == "log.event-data"
