"""Where the demo's images come from."""

import hashlib
import json
import shutil
import subprocess

import pytest
from demo.images import NAMES, PACKAGES, ImagesUnavailable, images_from_debian, images_from_folder

CONTENTS = {"linux": b"a kernel", "initrd.gz": b"an initrd", "QEMU_EFI.fd": b"firmware"}
PATHS = {
    "linux": "usr/lib/debian-installer/images/12/arm64/text/debian-installer/arm64/linux",
    "initrd.gz": "usr/lib/debian-installer/images/12/arm64/text/debian-installer/arm64/initrd.gz",
    "QEMU_EFI.fd": "usr/share/qemu-efi-aarch64/QEMU_EFI.fd",
}
VERSIONS = {"debian-installer-12-netboot-arm64": "20230607+deb12u15", "qemu-efi-aarch64": "2022.11-6+deb12u2"}

needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="builds Debian packages")


def test_a_folder_with_all_images(tmp_path):
    for name, content in CONTENTS.items():
        (tmp_path / name).write_bytes(content)
    images = images_from_folder(tmp_path)
    assert set(images) == set(NAMES)
    assert images["linux"].sha256 == hashlib.sha256(b"a kernel").hexdigest()
    assert images["linux"].provenance["file-sha256"] == images["linux"].sha256


def test_a_folder_that_lacks_one_is_refused_by_name(tmp_path):
    (tmp_path / "linux").write_bytes(b"a kernel")
    with pytest.raises(ImagesUnavailable, match=r"lacks initrd\.gz, QEMU_EFI\.fd"):
        images_from_folder(tmp_path)


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """An ``apt-get`` that hands out packages built here, and counts what it was asked for."""
    folder, programs = tmp_path / "mirror", tmp_path / "bin"
    for package in PACKAGES:
        name = package.names[0]
        tree = tmp_path / name
        for file in package.files:
            (tree / PATHS[file]).parent.mkdir(parents=True, exist_ok=True)
            (tree / PATHS[file]).write_bytes(CONTENTS[file])
        (tree / "usr/share/decoy").mkdir(parents=True)
        (tree / "usr/share/decoy/linux").write_bytes(b"not this one")
        (tree / "DEBIAN").mkdir()
        control = f"Package: {name}\nVersion: {VERSIONS[name]}\nArchitecture: all\nMaintainer: nobody\nDescription: test\n"
        (tree / "DEBIAN/control").write_text(control)
        folder.mkdir(exist_ok=True)
        subprocess.run(
            ["dpkg-deb", "--build", "--root-owner-group", "-Znone", tree, folder / f"{name}.deb"], check=True, capture_output=True
        )
    programs.mkdir()
    script = (
        "#!/bin/sh\n"
        f'echo "$@" >> {tmp_path}/asked\n'
        "for last; do :; done\n"
        f'[ -e {tmp_path}/down ] && {{ echo "E: Unable to locate package $last" >&2; exit 100; }}\n'
        f'case "$*" in *update*) exit 0;; esac\n'
        f'cp {folder}/$last.deb . 2>/dev/null || {{ echo "E: Unable to locate package $last" >&2; exit 100; }}\n'
    )
    (programs / "apt-get").write_text(script)
    (programs / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    return tmp_path


def asked(mirror):
    file = mirror / "asked"
    return file.read_text().splitlines() if file.exists() else []


@needs_dpkg
def test_images_come_out_of_the_packages_with_their_provenance(mirror):
    said = []
    images = images_from_debian(mirror / "cache", said.append)
    assert {name: image.path.read_bytes() for name, image in images.items()} == CONTENTS
    archive = mirror / "mirror" / "qemu-efi-aarch64.deb"
    assert images["QEMU_EFI.fd"].provenance == {
        "origin": "Debian",
        "package": "qemu-efi-aarch64",
        "package-version": "2022.11-6+deb12u2",
        "package-sha256": hashlib.sha256(archive.read_bytes()).hexdigest(),
        "file": "/" + PATHS["QEMU_EFI.fd"],
        "file-sha256": hashlib.sha256(b"firmware").hexdigest(),
    }
    assert sorted(path.name for path in (mirror / "cache").iterdir()) == ["QEMU_EFI.fd", "initrd.gz", "linux", "manifest.json"]
    assert any("debian-installer-12-netboot-arm64" in line for line in said)


@needs_dpkg
def test_a_second_run_downloads_nothing(mirror):
    first = images_from_debian(mirror / "cache", lambda line: None)
    count = len(asked(mirror))
    assert images_from_debian(mirror / "cache", lambda line: None) == first
    assert len(asked(mirror)) == count


@needs_dpkg
def test_a_damaged_cache_is_noticed(mirror):
    images_from_debian(mirror / "cache", lambda line: None)
    (mirror / "cache/linux").write_bytes(b"another kernel")
    count = len(asked(mirror))
    images = images_from_debian(mirror / "cache", lambda line: None)
    assert images["linux"].path.read_bytes() == b"a kernel"
    assert [line.split()[-1] for line in asked(mirror)[count:]] == ["debian-installer-12-netboot-arm64"]


@needs_dpkg
@pytest.mark.parametrize("manifest", ["", "[]", '{"linux": 5}', '{"linux": {"sha256": "x"}}'])
def test_a_broken_manifest_is_no_cache(mirror, manifest):
    (mirror / "cache").mkdir()
    (mirror / "cache/manifest.json").write_text(manifest)
    images_from_debian(mirror / "cache", lambda line: None)
    assert set(json.loads((mirror / "cache/manifest.json").read_text())) == set(NAMES)


@needs_dpkg
def test_without_packages_the_message_says_what_to_do(mirror):
    (mirror / "down").touch()
    with pytest.raises(ImagesUnavailable, match=r"Unable to locate package .* make demo IMAGES="):
        images_from_debian(mirror / "cache", lambda line: None)
    assert any("update" in line for line in asked(mirror))


def test_without_apt_the_message_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ImagesUnavailable, match=r"no apt-get.* make demo IMAGES="):
        images_from_debian(tmp_path / "cache", lambda line: None)
