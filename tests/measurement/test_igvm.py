"""IGVM files: the synthetic one against its description, files that are damaged, and files that are not for a realm."""

import hashlib
import json
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from igvm_forge import context, header, igvm_file, page, platform, policy

from kbs_rim.errors import InvalidDocument
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.measurement.igvm import IgvmType, parse_igvm
from kbs_rim.measurement.igvm_launch import IgvmPage, read_launch
from kbs_rim.measurement.rmm import DataCreate, RecCreate

VECTORS = Path(__file__).parent.parent / "vectors" / "images" / "igvm"
FILE = (VECTORS / "synthetic-cca.igvm").read_bytes()
EXPECTED = json.loads((VECTORS / "synthetic-cca.json").read_text())
UNMEASURED, SHARED, LARGE = 2, 4, 1


def refusal(data: bytes) -> str:
    with pytest.raises(InvalidDocument) as caught:
        read_launch(parse_igvm(data))
    assert caught.value.finding_id == "document.igvm"
    return caught.value.message


def described(data: bytes) -> list[dict]:
    """The launch in the words of the vector."""
    found = []
    for step in read_launch(parse_igvm(data)).steps:
        if isinstance(step, IgvmPage):
            kind = "data" if step.content is not None else "data_unmeasured"
            digest = {"content_sha256": hashlib.sha256(step.content).hexdigest()} if step.content else {}
            found.append({"op": kind, "gpa": step.address} | digest)
        else:
            rec = step.rec
            found.append({"op": "rec", "vp": step.number, "gprs": list(rec.gprs), "pc": rec.pc, "flags": rec.flags})
    return found


def test_the_synthetic_file_is_read_as_its_description_says():
    assert (len(FILE), hashlib.sha256(FILE).hexdigest()) == (EXPECTED["size"], EXPECTED["sha256"])
    expected = [{key: value for key, value in item.items() if item["op"] != "data_unmeasured" or key != "content_sha256"}
                for item in EXPECTED["operations"]]  # fmt: skip
    assert described(FILE) == expected
    launch = read_launch(parse_igvm(FILE))
    assert launch.policy is not None
    assert launch.policy.hash_algorithm.compact_name == EXPECTED["policy"]["hash"]
    assert launch.policy.live_activation is EXPECTED["policy"]["lfa_allow"]


def test_operations_are_those_of_the_rmm_in_the_order_of_the_file():
    content = b"\1" * 4096
    data = igvm_file([platform(), policy(1), page(0x2000, content), page(0x1000, None), page(0x3000, content, UNMEASURED), context(0x1000)])
    sha512 = HashAlgorithm.SHA512
    assert list(read_launch(parse_igvm(data)).operations(sha512)) == [
        DataCreate(0x2000, sha512.digest(content)),
        DataCreate(0x1000, sha512.digest(bytes(4096))),
        DataCreate(0x3000, None),
        RecCreate(1, 0x1000, (0,) * 8),
    ]


def test_pages_in_a_row_are_one_run_unless_it_is_cut():
    data = igvm_file([platform(), *(page(0x1000 * number, b"x") for number in (1, 2, 3, 5)), context(0x1000)])
    launch = read_launch(parse_igvm(data))
    assert [(run.base, run.size) for run in launch.runs()] == [(0x1000, 0x3000), (0x5000, 0x1000)]
    assert [(run.base, run.size) for run in launch.runs(0x2000)] == [(0x1000, 0x1000), (0x2000, 0x2000), (0x5000, 0x1000)]


def test_headers_of_other_platforms_do_not_count():
    data = igvm_file([platform(), platform(2, kind=2), page(0x1000, b"ours"), page(0x1000, b"theirs", mask=2), context(0x1000)])
    assert [step.content[:6] for step in read_launch(parse_igvm(data)).pages] == [b"ours\0\0"]


def test_what_the_host_fills_is_never_measured():
    area = header(IgvmType.PARAMETER_AREA, struct.pack("<QII", 8192, 0, 0))
    tree = header(IgvmType.DEVICE_TREE, struct.pack("<II", 0, 0))
    insert = header(IgvmType.PARAMETER_INSERT, struct.pack("<QII", 0x8000, 1, 0))
    launch = read_launch(parse_igvm(igvm_file([platform(), area, tree, insert, page(0x1000, b"x"), context(0x1000)])))
    assert launch.parameters == ("device-tree",)
    assert [(item.address, item.content, item.host_filled) for item in launch.pages[:2]] == [(0x8000, None, True), (0x9000, None, True)]
    assert "inserted twice" in refusal(igvm_file([platform(), area, insert, insert, context(0x1000)]))


PAGE, REC = page(0x1000, b"x"), context(0x1000)


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ([platform(kind=2), PAGE, REC], "not for Arm CCA; its platforms are SEV-SNP"),
        ([platform(kind=3), PAGE, REC], "its platforms are TDX"),
        ([PAGE, REC], "not for Arm CCA"),
        ([platform(), platform(2), PAGE, REC], "twice"),
        ([platform(), platform(kind=2), PAGE, REC], "that of another one"),
        ([platform(3), PAGE, REC], "exactly one bit"),
        ([platform(), PAGE], "starts no vCPU"),
        ([platform(), PAGE, PAGE, REC], "stands twice"),
        ([platform(), page(0x1001, b"x"), REC], "no address of a granule"),
        ([platform(), page(0x1000, b"x", SHARED), REC], "is shared"),
        ([platform(), page(0x1000, b"x", LARGE), REC], "of 2 MiB"),
        ([platform(), page(0x1000, b"x", kind=2), REC], "of a kind"),
        ([platform(), PAGE, REC, REC], "vCPU 0 stands twice"),
        ([platform(), policy(7), PAGE, REC], "values that mean nothing"),
        ([platform(), policy(0, zeroes=1, ones=1), PAGE, REC], "contradicts itself"),
        ([platform(), policy(0), policy(0), PAGE, REC], "stands twice"),
        ([platform(), PAGE, header(0x399, b""), REC], "not known"),
        ([platform(), header(IgvmType.RELOCATABLE_REGION, struct.pack("<I36x", 1)), PAGE, REC], "relocated"),
        ([platform(), header(IgvmType.PAGE_DATA, b"short"), REC], "5 bytes instead of 24"),
        ([platform(), header(IgvmType.PAGE_DATA, struct.pack("<QIIIHH", 0x1000, 1, 8, 0, 0, 0)), REC], "none of the file's data"),
        ([PAGE, platform(), REC], "later section"),
        ([platform(), header(IgvmType.PARAMETER_AREA, struct.pack("<QII", 100, 0, 0)), REC], "no whole number of pages"),
        ([platform(), header(0x106, b"x" * 39), PAGE, REC], "39 bytes instead of 32"),
        ([platform(), PAGE, context(0x1000, pad=1)], "fields that mean nothing"),
        ([platform(), header(0x250, b""), REC], "of a type that there is not"),
    ],
)  # fmt: skip
def test_what_is_no_launch_of_a_realm_is_refused(headers, words):
    assert words in refusal(igvm_file(headers))


def test_required_memory_is_a_hint_and_other_masks_do_not_count():
    memory = [header(IgvmType.REQUIRED_MEMORY, struct.pack("<QIIII", 0x1000, mask, 4096, 0, 0)) for mask in (1, 2)]
    others = [
        header(IgvmType.CCA_POLICY, struct.pack("<IIQQBB6x", 2, 0, 0, 0, 2, 0)),
        header(IgvmType.RELOCATABLE_REGION, struct.pack("<I36x", 2)),
        header(IgvmType.GUEST_POLICY, struct.pack("<QII", 0, 2, 0)),
    ]
    insert = header(IgvmType.PARAMETER_INSERT, struct.pack("<QII", 0x8000, 2, 0))
    launch = read_launch(parse_igvm(igvm_file([platform(), *others, *memory, insert, PAGE, context(0x1000, mask=2, number=1), REC])))
    assert (launch.required_memory, launch.policy, [item.number for item in launch.recs]) == (((0x1000, 4096),), None, [0])


def test_attack_a_few_bytes_stand_for_a_million_pages():
    areas = [header(IgvmType.PARAMETER_AREA, struct.pack("<QII", 1 << 23, number, 0)) for number in range(3)]
    assert "more than 16777216 bytes" in refusal(igvm_file([platform(), *areas, REC]))


def test_a_header_that_is_not_known_may_be_passed_over_if_it_says_so():
    assert read_launch(parse_igvm(igvm_file([platform(), PAGE, header(0x399 | 1 << 31, b""), REC]))).recs


def test_an_x64_file_is_no_realm():
    assert "not for AArch64" in refusal(igvm_file([platform(), PAGE, REC], architecture=0))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: b"IGVX" + data[4:], "does not begin like one"),
        (lambda data: data[:10], "does not begin like one"),
        (lambda data: data[:-1], "cut off"),
        (lambda data: data + b"\0", "cut off"),
        (lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:], "checksum"),
        (lambda data: data[:4] + struct.pack("<I", 3) + data[8:], "format version 3"),
        (lambda data: data[:28] + struct.pack("<I", 65536) + data[32:], "pages of 65536"),
        (lambda data: data[:8] + struct.pack("<I", 33) + data[12:], "contradict each other"),
        (lambda data: data[:12] + struct.pack("<I", 0xFFFFFFFF) + data[16:], "contradict each other"),
    ],
)
def test_a_damaged_file_is_refused(change, words):
    assert words in refusal(change(FILE))


@given(st.integers(0, len(FILE) - 4097), st.integers(1, 255))
def test_no_bit_of_the_headers_can_change_unseen(at, change):
    """What is behind the headers are the pages; up to there the checksum covers everything."""
    start, size = struct.unpack_from("<II", FILE, 8)
    at %= start + size
    assert refusal(FILE[:at] + bytes([FILE[at] ^ change]) + FILE[at + 1 :])


@given(st.binary(max_size=300))
def test_any_headers_are_read_or_refused(body):
    fixed = struct.pack("<4s5I", b"IGVM", 2, 32, len(body), 32 + len(body), 0) + struct.pack("<II", 1, 4096)
    data = fixed[:20] + struct.pack("<I", zlib.crc32(fixed + body)) + fixed[24:] + body
    with suppress(InvalidDocument):
        assert read_launch(parse_igvm(data)).recs
