"""Reads whole sources: a package, a folder. What was found comes with what can be said of where it is from."""

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from kbs_rim.errors import RefusedSource
from kbs_rim.image_sources.apt_source import Offer
from kbs_rim.image_sources.byte_streams import CHUNK_BYTES, Readable
from kbs_rim.image_sources.deb_package import DebPackage
from kbs_rim.image_sources.finder import FoundImage, ImageFinder, SourceFile, printable
from kbs_rim.image_sources.tar_stream import TarKind, TarMember

_VALUE_CHARACTERS = 1000


@dataclass(frozen=True, slots=True)
class SourcedImage:
    """An image that was found, with the name and the provenance that it is registered with."""

    found: FoundImage
    name: str
    provenance: Mapping[str, str]


def sourced(images: tuple[FoundImage, ...], label: str, origin: Mapping[str, str]) -> tuple[SourcedImage, ...]:
    """Put a source's own words to what was found in it; ``label`` begins the names."""
    words = {name: printable(value)[:_VALUE_CHARACTERS] for name, value in origin.items() if value}
    return tuple(SourcedImage(image, image.name(label), {**words, **image.provenance()}) for image in images)


def images_of_package(file: Readable, finder: ImageFinder, offer: Offer | None = None) -> tuple[SourcedImage, ...]:
    """Read a package that stands at its beginning. ``offer`` is what a signed index says of it: it must be that one.

    Raises ``RefusedSource``: ``source.package-differs``, and as ``DebPackage`` and ``ImageFinder`` do.
    """
    package = DebPackage(file, finder.source_limits)
    facts = package.facts
    if offer is not None and offer.facts != facts:
        raise RefusedSource(
            "source.package-differs", "the package is another than its index says", expected=str(offer.facts), seen=str(facts)
        )
    for container, member in package.files(offer.budget() if offer else None):
        take_member(finder, member, container)
    sha256, size = package.finish()
    if offer is not None and (sha256, size) != (offer.sha256, offer.size):
        raise RefusedSource("source.package-differs", "the package is not the one that its index names", expected=offer.sha256, seen=sha256)
    origin = {
        "package": facts.package,
        "package-version": facts.version,
        "package-architecture": facts.architecture,
        "package-sha256": sha256,
        "vouched-for": "nobody: no signature was checked",
    }
    return sourced(finder.finish(), f"{facts.package} {facts.version}", origin if offer is None else offer.provenance())


def take_member(finder: ImageFinder, member: TarMember, container: str) -> None:
    """Hand a member of an archive to the finder."""
    path = f"/{member.path}"
    if member.kind is TarKind.FILE:
        finder.take(SourceFile(path, member.size, container, member.offset, member.content.chunks))
    elif member.kind in (TarKind.HARD_LINK, TarKind.SYMBOLIC_LINK):
        symbolic = member.kind is TarKind.SYMBOLIC_LINK
        finder.link(path, member.target if symbolic else f"/{member.target}", symbolic=symbolic)


def images_of_folder(folder: Path, finder: ImageFinder) -> tuple[SourcedImage, ...]:
    """Read the regular files below a folder; links are noted and never followed, other file systems are not entered.

    Raises ``RefusedSource``: ``source.file``, ``source.too-large``, and as ``ImageFinder`` does; ``OSError``.
    """
    root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for count, (path, parent, name) in enumerate(_walk(root, "/", os.fstat(root).st_dev), 1):
            if count > finder.source_limits.files:
                raise RefusedSource("source.too-large", f"the folder has more than {finder.source_limits.files} files")
            _take_entry(finder, path, parent, name)
    finally:
        os.close(root)
    origin = {"origin": "local folder", "folder": str(folder), "vouched-for": "nobody: no signature was checked"}
    return sourced(finder.finish(), folder.resolve().name or "folder", origin)


def _walk(descriptor: int, path: str, device: int) -> Iterator[tuple[str, int, str]]:
    """Yield (path, descriptor of its folder, name) of everything that is no folder, in the order of names."""
    with os.scandir(descriptor) as entries:
        names = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
    for name, is_folder in names:
        if not is_folder:
            yield path + name, descriptor, name
            continue
        try:
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
        except OSError as error:
            raise RefusedSource("source.file", f"{path}{name} cannot be read: {error.strerror}") from None
        try:
            if os.fstat(below).st_dev == device:
                yield from _walk(below, f"{path}{name}/", device)
        finally:
            os.close(below)


def _take_entry(finder: ImageFinder, path: str, parent: int, name: str) -> None:
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=parent)
    except OSError as error:
        if stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            finder.link(path, os.readlink(name, dir_fd=parent), symbolic=True)
            return
        raise RefusedSource("source.file", f"{path} cannot be read: {error.strerror}") from None
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode):
            finder.take(SourceFile(path, status.st_size, "", None, lambda: iter(lambda: file.read(CHUNK_BYTES), b"")))
