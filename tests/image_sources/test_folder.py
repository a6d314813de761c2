"""Folders of the administrator's: regular files, and nothing that a link or a device leads to."""

import os

import pytest

from kbs_rim.errors import RefusedSource
from kbs_rim.image_sources.finder import ImageFinder, Selection
from kbs_rim.image_sources.origins import images_of_folder
from kbs_rim.image_sources.source_limits import SourceLimits
from kbs_rim.measurement.image import measure_image
from tests.package_forge import arm64_kernel, initrd


def test_files_are_found_and_links_are_other_names(tmp_path):
    root = tmp_path / "boot"
    (root / "deep" / "er").mkdir(parents=True)
    (root / "deep" / "er" / "vmlinuz").write_bytes(arm64_kernel())
    (root / "vmlinuz").symlink_to("deep/er/vmlinuz")
    (root / "initrd.img").write_bytes(initrd())
    outside = tmp_path / "secret-kernel"
    outside.write_bytes(arm64_kernel(seed=b"secret"))
    (root / "stolen").symlink_to(outside)
    (root / "folder").symlink_to(tmp_path)
    os.mkfifo(root / "pipe")
    found = images_of_folder(root, ImageFinder())
    assert [(item.name, item.found.locations[0].links) for item in found] == [
        ("boot /deep/er/vmlinuz", ("/vmlinuz",)),
        ("boot /initrd.img", ()),
    ]


def test_a_folder_with_too_many_files_is_refused(tmp_path):
    for number in range(12):
        (tmp_path / str(number)).write_bytes(b"x")
    with pytest.raises(RefusedSource) as caught:
        images_of_folder(tmp_path, ImageFinder(source_limits=SourceLimits(files=10)))
    assert caught.value.finding_id == "source.too-large"


def test_what_is_chosen_can_be_listed_with_everything(vectors, tmp_path):
    tree = min((vectors / "images").rglob("*.dtb"))
    data = tree.read_bytes()
    (tmp_path / "vm.dtb").write_bytes(data.ljust(int.from_bytes(data[4:8], "big"), b"\0"))
    (tmp_path / "vmlinuz").write_bytes(arm64_kernel())
    finder = ImageFinder()
    assert [item.found.kind.value for item in images_of_folder(tmp_path, finder)] == ["kernel"]
    assert [(path, kind.value) for path, kind in finder.skipped] == [("/vm.dtb", "device tree")]


def test_packages_in_a_folder_are_named_where_nothing_else_is(tmp_path):
    (tmp_path / "linux.deb").write_bytes(b"!<arch>\ndebian-binary   0           0     0     100644  4         `\n2.0\n")
    with pytest.raises(RefusedSource) as caught:
        images_of_folder(tmp_path, ImageFinder())
    assert (caught.value.finding_id, caught.value.seen) == ("source.nothing", "/linux.deb")
    assert "name each with --deb: /linux.deb" in caught.value.message


def test_a_file_that_is_only_called_a_package_is_none(tmp_path):
    (tmp_path / "linux.deb").write_bytes(b"no archive")
    with pytest.raises(RefusedSource) as caught:
        images_of_folder(tmp_path, ImageFinder())
    assert "--deb" not in caught.value.message


def test_the_seeds_of_a_tree_are_found_with_it(vectors, tmp_path):
    for path in (vectors / "images").rglob("*.dtb"):
        data = path.read_bytes()
        data = data.ljust(int.from_bytes(data[4:8], "big"), b"\0")
        (tmp_path / f"{path.parent.name}-{path.name}").write_bytes(data)
    found = {item.found.locations[0].path[1:]: item.found for item in images_of_folder(tmp_path, ImageFinder(Selection(patterns=("*",))))}
    seeded = {name: image for name, image in found.items() if image.seeds}
    assert set(seeded) == {name for name in found if b"rng-seed" in (tmp_path / name).read_bytes()}
    for name, image in found.items():
        assert image.measurements.image_id == measure_image((tmp_path / name).read_bytes()).image_id
