"""The CCEL table: which machine, which area. What does not fit together is refused before the log is read."""

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_forge import finding_of

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.ccel import CC_TYPE_ARM_CCA, parse_ccel, parse_ccel_table
from kbs_rim.evidence.tcg_log import LogKind

CCEL = Path(__file__).parent.parent / "vectors" / "logs" / "ccel"
TDX = 2


def table(*, signature: bytes = b"CCEL", length: int = 56, fix: bool = True, **change: int) -> bytes:
    fields = {"cc_type": CC_TYPE_ARM_CCA, "area": 65536, "address": 0x80000000, **change}
    head = struct.pack("<4sIBB6s8sI4sI", signature, length, 1, 0, b"OEM", b"TABLE", 2, b"", 0)
    raw = head + struct.pack("<BBHQQ", fields["cc_type"], 0, 0, fields["area"], fields["address"])
    return raw[:9] + bytes([-sum(raw) % 256 if fix else 0xA5]) + raw[10:]


def refused(call, *arguments, **more) -> MalformedEvidence:
    with pytest.raises(MalformedEvidence) as caught:
        call(*arguments, **more)
    return caught.value


@pytest.mark.parametrize(
    ("name", "area", "address"), [("CCEL.table.bin", 65536, 0x7D649000), ("cos-113-intel-tdx.table.bin", 262144, 0xBEDBF000)]
)
def test_real_tables(name, area, address):
    read = parse_ccel_table((CCEL / name).read_bytes())
    assert (read.cc_type, read.cc_type_name, read.area_bytes, read.area_address) == (TDX, "Intel TDX", area, address)


def test_table_and_area_of_one_machine():
    log = parse_ccel((CCEL / "cos-113-intel-tdx.table.bin").read_bytes(), (CCEL / "cos-113-intel-tdx.bin").read_bytes(), cc_type=TDX)
    assert (log.kind, len(log.events)) == (LogKind.CC, 43)


def test_trimmed_area_is_accepted():
    assert parse_ccel(table(), (CCEL / "CCEL_unpadded.data.bin").read_bytes()).used_bytes == 2026


def test_table_of_another_architecture():
    error = refused(parse_ccel, (CCEL / "CCEL.table.bin").read_bytes(), (CCEL / "CCEL_data_ovmf").read_bytes())
    assert (error.finding_id, error.expected, error.seen) == ("log.table", "Arm CCA", "Intel TDX")


def test_area_larger_than_the_table_says():
    area = (CCEL / "CCEL_data_ovmf").read_bytes()
    assert refused(parse_ccel, table(area=len(area) - 1), area).finding_id == "log.table"


@pytest.mark.parametrize(
    ("change", "offset"),
    [
        ({"length": 57}, 4),
        ({"fix": False}, 9),
        ({"cc_type": 0}, 36),
        ({"area": 0}, 40),
        ({"address": 0}, 40),
        ({"address": (1 << 64) - 1, "area": 4096}, 40),
    ],
    ids=["length", "checksum", "reserved type", "no area", "no address", "address wraps"],
)
def test_malformed_table(change, offset):
    error = refused(parse_ccel_table, table(**change))
    assert (error.finding_id, error.offset) == ("log.table", offset)


def test_another_table_is_no_ccel_table():
    assert refused(parse_ccel_table, table(signature=b"TPM2")).message == "the table is no CCEL table"


@pytest.mark.parametrize("size", [0, 55, 57])
def test_table_of_another_size(size):
    assert refused(parse_ccel_table, (table() + b"\0")[:size]).finding_id == "log.table"


@given(st.integers(1, 255), st.integers(1, 1 << 40), st.integers(1, 1 << 63))
def test_every_good_table_is_read(cc_type, area, address):
    read = parse_ccel_table(table(cc_type=cc_type, area=area, address=address))
    assert (read.cc_type, read.area_bytes, read.area_address) == (cc_type, area, address)


@given(st.binary(min_size=56, max_size=56), st.integers(0, 55))
def test_any_bytes_are_read_or_refused(data, keep):
    assert finding_of(parse_ccel_table, table()[:keep] + data[keep:]) in (None, "log.table")
