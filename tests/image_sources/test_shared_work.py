"""Hashing on several threads gives what one thread gives."""

import gzip

import pytest

from kbs_rim.image_sources.shared_work import SharedWork
from kbs_rim.measurement.image import measure_image, measure_stream
from tests.package_forge import arm64_kernel
from tests.pe_builder import uki


@pytest.mark.parametrize("data", [arm64_kernel(900_001), gzip.compress(arm64_kernel(700_000)), uki((".linux", bytes(600_000)))])
def test_threads_change_nothing(data):
    with SharedWork() as work:
        assert measure_stream((data,), len(data), do=work) == measure_image(data)


def test_an_error_of_one_piece_of_work_is_told_when_all_are_done():
    done = []

    def fails() -> None:
        raise ValueError("broken")

    with SharedWork() as work, pytest.raises(ValueError, match="broken"):
        work((fails, lambda: done.append(1), lambda: done.append(2)))
    assert sorted(done) == [1, 2]
