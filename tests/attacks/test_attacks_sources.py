"""Attacks on what administrators take images from: packages, container layouts and descriptions that lie, or that cost too much."""

import time
from dataclasses import replace

import pytest

from kbs_rim.errors import RefusedSource
from kbs_rim.image_sources.finder import ImageFinder, SourceFile
from kbs_rim.image_sources.oci_layout import OciLayout
from kbs_rim.image_sources.openpgp import verify_release
from kbs_rim.image_sources.source_limits import DEFAULT_SOURCE_LIMITS
from tests.package_forge import Layout, arm64_kernel, tar_bytes
from tests.repository_fixtures import repository, signers

__all__ = ["repository", "signers"]


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


def test_names_may_not_fill_memory(tmp_path):
    """Half a million names of four kilobytes pack to nothing and unpack to gigabytes, well within what an archive may unpack to."""
    limits = replace(DEFAULT_SOURCE_LIMITS, names_bytes=3000)
    long = [(f"{number}/{'x' * 90}", "y" * 90) for number in range(10)]
    for layers in (
        [[*long, *((f"other-{name}", target) for name, target in long)]],
        [long, [(f"other-{name}", target) for name, target in long]],
    ):
        folder = tmp_path / str(len(layers))
        folder.mkdir()
        Layout(folder, [tar_bytes([("boot/vmlinuz", arm64_kernel())]), *map(tar_bytes, layers)]).write()
        with pytest.raises(RefusedSource) as caught:
            OciLayout(folder, limits).images(ImageFinder(source_limits=limits))
        assert caught.value.finding_id == "source.too-large"


def test_names_of_thousands_of_folders_cost_no_more_than_their_length(tmp_path):
    deep = "/".join("d" * 1500)
    lower = tar_bytes([(f"{deep}/{number}", "nowhere") for number in range(300)])
    uppers = [tar_bytes([(f"{layer}/.wh.x", b"")]) for layer in range(20)]
    made = Layout(tmp_path, [tar_bytes([("boot/vmlinuz", arm64_kernel())]), lower, *uppers])
    made.write()
    started = time.process_time()
    OciLayout(tmp_path, DEFAULT_SOURCE_LIMITS).images(ImageFinder())
    assert time.process_time() - started < 4, "twelve seconds where each folder of a name is looked up by its whole path"


def test_a_good_message_behind_a_strangers_does_not_vouch_for_it(repository, signers, tmp_path):
    """gpgv reads one message of a file: what it says is good must be what is used."""
    good = (repository.suite / "InRelease").read_bytes()
    evil = signers[1].clear_sign("Suite: evil\n")
    with pytest.raises(RefusedSource) as caught:
        verify_release(evil + good, tmp_path / "archive.gpg")
    assert caught.value.finding_id == "source.signature"
    assert b"evil" not in verify_release(good + evil, tmp_path / "archive.gpg").text
