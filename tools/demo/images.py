"""The images that realms boot: Debian's arm64 installer kernel and initrd, and EDK2, through apt or from a folder.

apt verifies every package against Debian's signed index. Nothing is installed and nothing needs root: packages are downloaded
into the cache folder, the three files are taken out of them, and the packages are thrown away.
"""

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path

NAMES = ("linux", "initrd.gz", "QEMU_EFI.fd")
_NETBOOT = "./usr/lib/debian-installer/images/*/arm64/text/debian-installer/arm64/"
_MANIFEST = "manifest.json"
_DOWNLOAD_TIMEOUT_S = 900


@dataclass(frozen=True, slots=True)
class Package:
    """A Debian package and what is taken from it: file name -> pattern of its path in the package."""

    names: tuple[str, ...]
    files: Mapping[str, str]
    megabytes: int


PACKAGES = (
    Package(
        ("debian-installer-12-netboot-arm64", "debian-installer-13-netboot-arm64"),
        {"linux": _NETBOOT + "linux", "initrd.gz": _NETBOOT + "initrd.gz"},
        128,
    ),
    Package(("qemu-efi-aarch64",), {"QEMU_EFI.fd": "./usr/share/qemu-efi-aarch64/QEMU_EFI.fd"}, 3),
)
"""Where two names stand, the first that this system's Debian release has is taken."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image file with where it comes from. ``provenance`` goes into the registry."""

    path: Path
    sha256: str
    provenance: dict[str, str]


class ImagesUnavailable(Exception):
    """The images cannot be had; the message says what to do."""


def images_from_folder(folder: Path) -> dict[str, Image]:
    """Return the images in a folder of the user's; raise ``ImagesUnavailable`` naming what is missing."""
    missing = [name for name in NAMES if not (folder / name).is_file()]
    if missing:
        raise ImagesUnavailable(f"IMAGES={folder} lacks {', '.join(missing)}: it must hold {', '.join(NAMES)}")
    images = {}
    for name in NAMES:
        path = (folder / name).resolve()
        digest = sha256_of(path)
        images[name] = Image(path, digest, {"origin": "local file", "file": name, "file-sha256": digest})
    return images


def images_from_debian(cache: Path, say: Callable[[str], None]) -> dict[str, Image]:
    """Return the images of the Debian packages, from ``cache`` if it holds them unchanged; raise ``ImagesUnavailable``."""
    cache.mkdir(parents=True, exist_ok=True)
    images = _cached(cache)
    if set(images) == set(NAMES):
        return images
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise ImagesUnavailable(
                f"this system has no {program}. Put {', '.join(NAMES)} (an arm64 kernel Image, its initrd, EDK2 for arm64) "
                "into a folder and run: make demo IMAGES=that-folder"
            )
    for package in PACKAGES:
        if not set(package.files) <= set(images):
            images |= _fetch(package, cache, say)
    _write_manifest(cache, images)
    return images


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- cache ------------------------------------------------------------------------------------------------------------


def _cached(cache: Path) -> dict[str, Image]:
    """Return what the manifest names and the files still are."""
    try:
        manifest = json.loads((cache / _MANIFEST).read_text())
        entries = {name: Image(cache / name, entry["sha256"], dict(entry["provenance"])) for name, entry in manifest.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return {name: image for name, image in entries.items() if image.path.is_file() and sha256_of(image.path) == image.sha256}


def _write_manifest(cache: Path, images: Mapping[str, Image]) -> None:
    document = {name: {key: value for key, value in asdict(image).items() if key != "path"} for name, image in images.items()}
    partial = cache / f"{_MANIFEST}.{os.getpid()}"
    partial.write_text(json.dumps(document, indent=2) + "\n")
    partial.replace(cache / _MANIFEST)


# --- apt --------------------------------------------------------------------------------------------------------------


def _fetch(package: Package, cache: Path, say: Callable[[str], None]) -> dict[str, Image]:
    say(f"Fetching {package.names[0]} ({package.megabytes} MB, once) ...")
    with tempfile.TemporaryDirectory(dir=cache, prefix="fetch-") as name:
        folder = Path(name)
        archive = _download(package, folder, cache, say)
        provenance = {
            "origin": "Debian",
            "package": _field(archive, "Package"),
            "package-version": _field(archive, "Version"),
            "package-sha256": sha256_of(archive),
        }
        say(f"Unpacking {archive.name} ...")
        found = {}
        for file, member in _take_out(archive, package.files, folder).items():
            path = (folder / file).replace(cache / file)
            digest = sha256_of(path)
            found[file] = Image(path, digest, {**provenance, "file": member.removeprefix("."), "file-sha256": digest})
        return found


def _download(package: Package, folder: Path, cache: Path, say: Callable[[str], None]) -> Path:
    """Download with the system's package lists; if these are missing or old, with lists of our own."""
    own_lists = cache / "apt"
    private = ["-o", f"Dir::State::Lists={own_lists / 'lists'}", "-o", f"Dir::Cache={own_lists / 'cache'}"]
    problem = ""
    for options in ([], private):
        if options:
            say("This system's package lists do not help; fetching lists of our own (apt-get update, nothing is installed) ...")
            for part in ("lists/partial", "cache/archives/partial"):
                (own_lists / part).mkdir(parents=True, exist_ok=True)
            problem = _apt(options, ["update"], folder)
        for name in package.names:
            problem = _apt(options, ["download", name], folder) or problem
            if archives := sorted(folder.glob("*.deb")):
                return archives[0]
    raise ImagesUnavailable(
        f"apt-get could not download {' or '.join(package.names)}: {problem or 'no reason given'}. "
        f"Check the system's apt sources, or put {', '.join(NAMES)} into a folder and run: make demo IMAGES=that-folder"
    )


def _apt(options: list[str], arguments: list[str], folder: Path) -> str:
    """Run apt-get in ``folder``; return its last error line, empty if it succeeded."""
    # Without the sandbox user: he may not write into a folder of ours.
    command = ["apt-get", "-q", "-o", "APT::Sandbox::User=", *options, *arguments]
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=_DOWNLOAD_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no result within {_DOWNLOAD_TIMEOUT_S} s"
    errors = [line.removeprefix("E: ") for line in done.stderr.splitlines() if line.startswith("E: ")]
    return (errors or [f"exit code {done.returncode}"])[-1] if done.returncode else ""


def _field(archive: Path, name: str) -> str:
    return subprocess.run(["dpkg-deb", "--field", archive, name], capture_output=True, text=True, check=True).stdout.strip()


def _take_out(archive: Path, files: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Write the wanted members into ``folder``, nothing else; return file name -> path in the package."""
    found: dict[str, str] = {}
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", archive], stdout=subprocess.PIPE) as unpacker:
        with tarfile.open(fileobj=unpacker.stdout, mode="r|") as members:
            for member in members:
                name = next((file for file, pattern in files.items() if fnmatch(member.name, pattern)), None)
                content = members.extractfile(member) if name and name not in found and member.isreg() else None
                if name and content:
                    with (folder / name).open("wb") as output:
                        shutil.copyfileobj(content, output, 1 << 20)
                    found[name] = member.name
                if len(found) == len(files):
                    break
        unpacker.kill()
    if missing := set(files) - set(found):
        raise ImagesUnavailable(f"{archive.name} holds no {', '.join(sorted(missing))}; run make demo IMAGES=a-folder-with-images instead")
    return found
