"""Packages as dpkg-deb makes them, and as attackers do."""

import io
import lzma
import shutil
import subprocess

import pytest

from kbs_rim.appraisal.workload import Role
from kbs_rim.errors import RefusedSource
from kbs_rim.image_sources.deb_package import DebPackage
from kbs_rim.image_sources.finder import ImageFinder, Selection
from kbs_rim.image_sources.origins import images_of_package
from kbs_rim.image_sources.source_limits import DEFAULT_SOURCE_LIMITS, SourceLimits
from kbs_rim.image_sources.tar_stream import TarKind
from tests.package_forge import Package, ar_bytes, arm64_kernel, initrd, sha256_of, tar_bytes

EVIL_NAME = b"Package: ../x\nVersion: 1\nArchitecture: a\n"
CONTROL = tar_bytes([("./control", b"Package: p\nVersion: 1\nArchitecture: arm64\n")])
DATA = tar_bytes([("./boot/vmlinuz", arm64_kernel())])
USUAL = (("debian-binary", b"2.0\n"), ("control.tar", CONTROL), ("data.tar", DATA))


def read(deb: bytes, limits: SourceLimits = DEFAULT_SOURCE_LIMITS) -> tuple[list[str], str]:
    package = DebPackage(io.BytesIO(deb), limits)
    names = [member.path for _, member in package.files()]
    return names, package.finish()[0]


def refusal(deb: bytes, limits: SourceLimits = DEFAULT_SOURCE_LIMITS) -> str:
    with pytest.raises(RefusedSource) as caught:
        read(deb, limits)
    return caught.value.finding_id


@pytest.mark.parametrize("packing", ["", "gz", "xz", "zst"])
def test_every_packing_gives_the_same_images(packing):
    kernel, ramdisk = arm64_kernel(), initrd()
    files = (("./boot/vmlinuz-1", kernel), ("./boot/initrd.img-1", ramdisk), ("./usr/share/doc/p/changelog.gz", b"\x1f\x8b\x08text"))
    deb = Package("p", "1:2.0-1", files, packing=packing).deb
    images = images_of_package(io.BytesIO(deb), ImageFinder())
    assert [(item.name, item.found.measurements.image_id[7:]) for item in images] == [
        ("p 1:2.0-1 /boot/vmlinuz-1", sha256_of(kernel)),
        ("p 1:2.0-1 /boot/initrd.img-1", sha256_of(ramdisk)),
    ]
    provenance = images[0].provenance
    assert provenance["package-sha256"] == sha256_of(deb)
    assert (provenance["package"], provenance["package-version"], provenance["file"]) == ("p", "1:2.0-1", "/boot/vmlinuz-1")
    assert provenance["vouched-for"].startswith("nobody")


def test_the_offset_is_where_the_file_lies_in_the_unpacked_archive():
    package = Package("p", "1", (("./boot/vmlinuz-1", arm64_kernel()),))
    [image] = images_of_package(io.BytesIO(package.deb), ImageFinder())
    offset = int(image.provenance["offset"])
    assert tar_bytes([("./", b""), *package.files])[offset:].startswith(arm64_kernel())


@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="dpkg-deb is the judge here")
def test_what_dpkg_deb_builds_is_read_as_dpkg_deb_lists_it(tmp_path):
    root = tmp_path / "root"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN" / "control").write_text("Package: p\nVersion: 1.2~rc1-3\nArchitecture: arm64\nMaintainer: x <x@y.z>\nDescription: d\n")
    (root / "boot").mkdir()
    (root / "boot" / "vmlinuz").write_bytes(arm64_kernel())
    (root / ("a-long-name-" * 12)).write_bytes(b"x" * 1000)
    (root / "boot" / "link").symlink_to("vmlinuz")
    (root / "boot" / "hard").hardlink_to(root / "boot" / "vmlinuz")
    for packing in ("xz", "gzip", "none", "zstd"):
        deb = tmp_path / f"{packing}.deb"
        subprocess.run(["dpkg-deb", f"-Z{packing}", "--root-owner-group", "-b", str(root), str(deb)], check=True, capture_output=True)
        listed = subprocess.run(["dpkg-deb", "-c", str(deb)], check=True, capture_output=True, text=True).stdout.splitlines()
        with deb.open("rb") as file:
            package = DebPackage(file, DEFAULT_SOURCE_LIMITS)
            members = [(member.path, member.kind) for _, member in package.files()]
            assert package.finish() == (sha256_of(deb.read_bytes()), deb.stat().st_size)
        assert (package.facts.package, package.facts.version) == ("p", "1.2~rc1-3")
        assert len(members) == len(listed)
        assert ("boot/link", TarKind.SYMBOLIC_LINK) in members
        assert ("a-long-name-" * 12, TarKind.FILE) in members


def test_links_are_other_names_of_a_file_and_are_never_followed_out():
    files = (
        ("./usr/lib/vmlinuz", arm64_kernel()),
        ("./boot/vmlinuz", "../usr/lib/vmlinuz"),
        ("./vmlinuz", "boot/vmlinuz"),
        ("./hard", "=./usr/lib/vmlinuz"),
        ("./evil", "../../../../etc/passwd"),
        ("./loop", "loop"),
    )
    [image] = images_of_package(io.BytesIO(Package("p", "1", files).deb), ImageFinder())
    assert image.found.locations[0].links == ("/boot/vmlinuz", "/hard", "/vmlinuz")
    assert len(image.found.locations) == 1


def test_the_same_bytes_in_two_places_are_one_image():
    files = (("./text/linux", arm64_kernel()), ("./gtk/linux", arm64_kernel()))
    [image] = images_of_package(io.BytesIO(Package("p", "1", files).deb), ImageFinder())
    assert [place.path for place in image.found.locations] == ["/text/linux", "/gtk/linux"]
    assert image.provenance["also"] == "/gtk/linux"


def test_a_pattern_without_a_role_must_be_of_something_that_has_one():
    deb = Package("p", "1", (("./etc/grub.cfg", b"menuentry"),)).deb
    with pytest.raises(RefusedSource, match="say --role if you want it") as caught:
        images_of_package(io.BytesIO(deb), ImageFinder(Selection(("*grub.cfg",))))
    assert (caught.value.finding_id, caught.value.seen) == ("source.nothing", "/etc/grub.cfg (other)")
    [taken] = images_of_package(io.BytesIO(deb), ImageFinder(Selection(("*grub.cfg",), (Role.BOOT_FILE,))))
    assert taken.found.roles == (Role.BOOT_FILE,)


def test_a_pattern_takes_what_boots_and_leaves_the_rest():
    deb = Package("p", "1", (("./text/linux", arm64_kernel()), ("./text/grub.mod", b"ELF"), ("./gtk/linux", arm64_kernel(seed=b"gtk")))).deb
    [taken] = images_of_package(io.BytesIO(deb), ImageFinder(Selection(("/text/*",))))
    assert taken.found.locations[0].path == "/text/linux"


def test_a_package_without_anything_that_boots_is_said_to_be_so():
    with pytest.raises(RefusedSource) as caught:
        images_of_package(io.BytesIO(Package("p", "1", (("./etc/motd", b"hello"),)).deb), ImageFinder())
    assert caught.value.finding_id == "source.nothing"


@pytest.mark.parametrize(
    ("members", "finding"),
    [
        (USUAL[:2], "source.package"),
        ((USUAL[0], USUAL[2], USUAL[1]), "source.package"),
        ((*USUAL, ("data.tar", DATA)), "source.package"),
        ((*USUAL, ("extra", b"x")), "source.package"),
        ((("debian-binary", b"3.0\n"), *USUAL[1:]), "source.package"),
        ((("debian-binary", b"2.0"), *USUAL[1:]), "source.package"),
        ((USUAL[0], ("control.tar.lz4", CONTROL), USUAL[2]), "source.package"),
        ((USUAL[0], ("control.tar.bz2", CONTROL), USUAL[2]), "source.package"),
        ((USUAL[0], ("control.tar", tar_bytes([("./md5sums", b"")])), USUAL[2]), "source.package"),
        ((USUAL[0], ("control.tar", tar_bytes([("./control", EVIL_NAME)])), USUAL[2]), "source.package"),
        ((USUAL[0], ("control.tar", tar_bytes([("./control", b"Package: a\nPackage: b\n")])), USUAL[2]), "source.package"),
        ((USUAL[0], USUAL[1], ("data.tar.xz", b"\xfd7zXZ\0 no such thing")), "source.compressed"),
        ((USUAL[0], USUAL[1], ("data.tar.xz", lzma.compress(DATA)[:-20])), "source.compressed"),
        ((USUAL[0], USUAL[1], ("data.tar", DATA[:700])), "source.archive"),
    ],
)  # fmt: skip
def test_a_package_that_is_not_one_is_refused(members, finding):
    assert refusal(ar_bytes(members)) == finding


def test_members_that_deb5_reserves_are_passed_over():
    assert read(ar_bytes((USUAL[0], ("_future", b"x"), *USUAL[1:], ("_gpgorigin", b"signature"))))[0] == ["boot/vmlinuz"]


@pytest.mark.parametrize("cut", [0, 5, 8, 40, 68, 80, 500])
def test_a_package_that_is_cut_off_is_refused(cut):
    assert refusal(ar_bytes(USUAL)[:cut]) in {"source.package", "source.archive"}


def test_a_bomb_is_refused_while_it_unpacks():
    bomb = tar_bytes([("./boot/vmlinuz", bytes(8 << 20))])
    deb = ar_bytes((USUAL[0], USUAL[1], ("data.tar.xz", lzma.compress(bomb))))
    assert len(deb) < len(bomb) // 500
    assert refusal(deb, SourceLimits(unpacked_bytes=1 << 20)) == "source.too-large"


def test_a_bomb_of_dictionary_is_refused():
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 512 << 20}]
    deb = ar_bytes((USUAL[0], USUAL[1], ("data.tar.xz", lzma.compress(DATA, format=lzma.FORMAT_XZ, filters=filters))))
    assert refusal(deb) == "source.compressed"


def test_too_many_files_are_refused():
    deb = Package("p", "1", tuple((f"./{number}", b"") for number in range(30))).deb
    assert refusal(deb, SourceLimits(files=20)) == "source.too-large"
