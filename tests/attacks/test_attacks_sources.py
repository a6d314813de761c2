"""Attacks on what administrators take images from: packages, container layouts and descriptions that lie, or that cost too much."""

import time
from dataclasses import replace

import pytest

from kbs_rim.errors import RefusedSource
from kbs_rim.image_sources.finder import ImageFinder, SourceFile
from kbs_rim.image_sources.oci_layout import OciLayout
from kbs_rim.image_sources.source_limits import DEFAULT_SOURCE_LIMITS
from tests.package_forge import Layout, arm64_kernel, tar_bytes


def test_a_forest_of_links_costs_no_more_than_its_links():
    """A package of a megabyte can hold half a million links, each of which might be another name of each image."""
    finder = ImageFinder()
    for number in range(100):
        kernel = arm64_kernel(seed=str(number).encode())
        finder.take(SourceFile(f"/k{number}", len(kernel), "data.tar", 0, lambda kernel=kernel: iter((kernel,))))
    for number in range(50_000):
        finder.link(f"/l{number}", f"/l{number + 1}", symbolic=True)
    finder.link("/vmlinuz", "/k7", symbolic=True)
    started = time.process_time()
    found = finder.finish()
    assert time.process_time() - started < 2, "seven seconds where each link is looked at for each image"
    assert [image.locations[0].links for image in found if image.locations[0].links] == [("/vmlinuz",)]


def test_layers_may_not_pile_up_links_until_memory_is_full(tmp_path):
    """Each layer has fewer names than an archive may have; 256 of them have not."""
    limits = replace(DEFAULT_SOURCE_LIMITS, files=60)
    layers = [tar_bytes([(f"{layer}-{number}", "nowhere") for number in range(40)]) for layer in range(2)]
    made = Layout(tmp_path, [tar_bytes([("boot/vmlinuz", arm64_kernel())]), *layers])
    made.write()
    with pytest.raises(RefusedSource) as caught:
        OciLayout(tmp_path, limits).images(ImageFinder(source_limits=limits))
    assert caught.value.finding_id == "source.too-large"
