"""EDK2's firmware volumes: found by their headers, measured on their own."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.measurement.firmware_volume import find_volumes
from kbs_rim.measurement.image import measure_image
from kbs_rim.measurement.spans import Span
from tests.pe_builder import volume

PAGE = 4096


def test_the_volume_behind_the_first_page_is_measured_on_its_own():
    inside = volume(5 * PAGE)
    measured = measure_image(bytes(PAGE) + inside + bytes(100))
    [found] = measured.volumes
    assert (found.offset, found.size) == (PAGE, 5 * PAGE)
    assert found.digests == {algorithm: algorithm.digest(inside) for algorithm in HashAlgorithm}
    assert {item.what for item in measured.measured_digests()} == {"file", "volume"}


def test_padding_of_the_file_does_not_change_the_volume():
    """QEMU_EFI.fd and AAVMF_CODE.fd are two files, with one volume."""
    short = bytes(PAGE) + volume(5 * PAGE)
    assert measure_image(short).volumes == measure_image(short + bytes(64 * PAGE)).volumes != ()


def test_volumes_follow_each_other():
    data = volume(3 * PAGE) + volume(PAGE + 512) + bytes(PAGE - 512) + volume(PAGE)
    assert list(find_volumes(data, len(data))) == [Span(0, 3 * PAGE), Span(3 * PAGE, 4 * PAGE + 512), Span(5 * PAGE, 6 * PAGE)]


@pytest.mark.parametrize(
    "data",
    [
        volume(PAGE, signature=b"_FVX"),
        volume(PAGE, revision=1),
        volume(PAGE, checksum=1),
        volume(PAGE, header=71),
        volume(PAGE, header=54),
        volume(PAGE, header=0xFFFE),
        volume(PAGE, length=PAGE + 1),
        volume(PAGE, length=0),
        volume(PAGE, length=60),
        volume(PAGE, length=(1 << 64) - 1),
        volume(PAGE)[:60],
        bytes(8) + volume(PAGE),
    ],
)
def test_what_is_no_volume(data):
    assert measure_image(data).volumes == ()


@given(st.integers(0, 71), st.integers(1, 255), st.integers(0, 5000))
def test_a_damaged_header_gives_no_volume_beyond_the_file(at, change, cut):
    data = bytearray(volume(PAGE) + volume(PAGE))
    data[at] ^= change
    kept = data[: len(data) - cut]
    found = list(find_volumes(kept, len(kept)))
    assert all(span.end <= len(kept) for span in found)
    assert all(before.end <= after.start for before, after in pairwise(found))
