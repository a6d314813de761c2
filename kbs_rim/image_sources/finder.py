"""Finds what boots in a source, and measures it while it passes. Nothing is written anywhere."""

import posixpath
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from itertools import chain

from kbs_rim.appraisal.workload import Role
from kbs_rim.errors import RefusedSource
from kbs_rim.image_sources.boot_files import HEAD_BYTES, ROLE_OF_KIND, USUAL_KINDS, BootKind, recognise
from kbs_rim.image_sources.source_limits import DEFAULT_SOURCE_LIMITS, SourceLimits
from kbs_rim.limits import DEFAULT_LIMITS, Limits
from kbs_rim.measurement.device_tree import parse_device_tree
from kbs_rim.measurement.device_tree_seeds import seeds_in
from kbs_rim.measurement.image import ImageMeasurements, Work, in_turn, measure_stream

_NAME_BYTES = 200
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._+:~/,()@=-]+")
_VALUE_CHARACTERS = 1000
_PACKAGE = b"!<arch>\ndebian-binary"
"""How a Debian package begins (deb(5))."""
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A regular file of a source: ``offset`` of its content in the unpacked ``container``, None where it is a file by itself.

    ``chunks`` may be asked for once, before the next file is asked for.
    """

    path: str
    size: int
    container: str
    offset: int | None
    chunks: Callable[[], Iterator[bytes]]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which files are taken.

    Without ``patterns`` what is usually wanted; with them what matches and is of a kind that has a role, or with ``roles`` whatever
    matches. ``roles`` replace those of the kind. ``everything`` takes all that is recognised, for looking at it.
    """

    patterns: tuple[str, ...] = ()
    roles: tuple[Role, ...] = ()
    everything: bool = False

    def matches(self, path: str) -> bool:
        """Patterns match whole paths, as a shell's do except that ``*`` goes through slashes; ``path`` begins with a slash."""
        return any(fnmatchcase(path, pattern) for pattern in self.patterns)

    def wants(self, path: str, kind: BootKind) -> bool:
        """Return whether a file of this kind is taken."""
        if self.patterns and not self.matches(path):
            return False
        if self.patterns and self.roles:
            return True
        if self.everything:
            return kind is not BootKind.OTHER
        return kind in (ROLE_OF_KIND if self.patterns else USUAL_KINDS)


@dataclass(frozen=True, slots=True)
class Location:
    """Where an image was: ``path`` begins with a slash, ``links`` are other names of this file in its container."""

    path: str
    container: str
    offset: int | None
    links: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FoundImage:
    """An image of a source, with every place that holds the same bytes; ``seeds`` are those that a device tree holds."""

    kind: BootKind
    roles: tuple[Role, ...]
    measurements: ImageMeasurements
    locations: tuple[Location, ...]
    seeds: tuple[str, ...] = ()

    def name(self, origin: str) -> str:
        """Return a name that says where it is from, as the registry takes it."""
        words = (*origin.split(), self.locations[0].path)
        text = " ".join(cleaned for word in words if (cleaned := _NOT_IN_NAMES.sub("-", word)))
        text = text if len(text) <= _NAME_BYTES else f"{text[:60]}...{text[-(_NAME_BYTES - 63) :]}"
        return text.lstrip(" ._+:~/,()@=-") or "image"

    def provenance(self) -> dict[str, str]:
        """Return the place as text by name; the origin's own words are added by who knows them."""
        first, *others = self.locations
        words = {"file": first.path, "file-sha256": self.measurements.to_document()["file_digests"]["sha256"]}
        if first.container:
            words["container"] = first.container
        if first.offset is not None:
            words["offset"] = str(first.offset)
        names = [*first.links, *(name for place in others for name in (place.path, *place.links))]
        if names:
            words["also"] = ", ".join(names)[:_VALUE_CHARACTERS]
        return {name: printable(value) for name, value in words.items()}


def printable(text: str) -> str:
    """Return text that can be stored and shown: whatever does not print is escaped."""
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


@dataclass(slots=True)
class ImageFinder:
    """Takes the files of a source one by one. ``progress`` is told the path and the bytes of each chunk that is hashed."""

    selection: Selection = field(default_factory=Selection)
    limits: Limits = DEFAULT_LIMITS
    source_limits: SourceLimits = DEFAULT_SOURCE_LIMITS
    do: Callable[[Sequence[Work]], None] = in_turn
    progress: Callable[[str, int], None] = lambda path, count: None
    hashed_bytes: int = 0
    skipped: list[tuple[str, BootKind]] = field(default_factory=list)
    _found: dict[str, tuple[BootKind, ImageMeasurements, Location]] = field(default_factory=dict)
    _links: dict[str, str] = field(default_factory=dict)
    _seeds: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _packages: list[str] = field(default_factory=list)

    def take(self, file: SourceFile) -> None:
        """Measure the file if it is wanted. Raises ``MalformedEvidence`` as ``measure_stream`` does, ``RefusedSource``."""
        if not file.size:
            return
        chunks = file.chunks()
        head = _head(chunks, min(file.size, HEAD_BYTES))
        kind = recognise(file.path, head, file.size, self.limits)
        if not self.selection.wants(file.path, kind):
            if head.startswith(_PACKAGE) and len(self._packages) < _SHOWN:
                self._packages.append(file.path)
            if kind is not BootKind.OTHER or self.selection.matches(file.path):
                self.skipped.append((file.path, kind))
            return
        if len(self._found) >= (self.source_limits.device_trees if kind is BootKind.DEVICE_TREE else self.source_limits.images):
            raise RefusedSource("source.too-large", "the source holds too many images: choose some with --match")
        if kind is BootKind.DEVICE_TREE and file.size <= self.limits.device_tree_bytes:
            head, chunks = head + b"".join(chunks), iter(())
        measured = measure_stream(self._watched(chain((head,), chunks), file.path), file.size, self.limits, self.do)
        self.hashed_bytes += file.size
        if kind is BootKind.DEVICE_TREE and measured.device_tree is not None and (seeds := seeds_in(parse_device_tree(head, self.limits))):
            self._seeds[measured.image_id] = seeds
        self._found[file.path] = (kind, measured, Location(file.path, file.container, file.offset))

    def link(self, path: str, target: str, *, symbolic: bool) -> None:
        """Note another name of a file of this source; it is never followed out of it."""
        if symbolic and not target.startswith("/"):
            target = posixpath.join(posixpath.dirname(path), target)
        if len(self._links) >= self.source_limits.files:
            raise RefusedSource("source.too-large", f"the source has more than {self.source_limits.files} links")
        self._links[path] = posixpath.normpath(target if target.startswith("/") else f"/{target}")

    def forget(self, hidden: Callable[[str], bool]) -> None:
        """Drop the files and links whose path a later layer hides."""
        self._found = {path: found for path, found in self._found.items() if not hidden(path)}
        self._links = {path: target for path, target in self._links.items() if not hidden(path)}

    def join(self, other: "ImageFinder") -> None:
        """Take over what another finder has found."""
        self._found |= other._found
        self._links |= other._links
        self._seeds |= other._seeds
        self._packages = (self._packages + other._packages)[:_SHOWN]
        self.skipped += other.skipped
        # Each layer of a container image has as many names as one archive may have, and there are hundreds of layers.
        if max(len(self._found), len(self._links), len(self.skipped)) > self.source_limits.files:
            raise RefusedSource("source.too-large", f"the source has more than {self.source_limits.files} names")
        if sum(len(name) + len(target) for name, target in self._links.items()) > self.source_limits.names_bytes:
            raise RefusedSource("source.too-large", f"the names of the source have more than {self.source_limits.names_bytes} bytes")
        self.hashed_bytes += other.hashed_bytes

    def finish(self) -> tuple[FoundImage, ...]:
        """Return the images in the order in which they were found, one for each content.

        Raises ``RefusedSource`` (``source.nothing``) if there are none.
        """
        by_id: dict[str, FoundImage] = {}
        links: dict[str, list[str]] = {}
        for name in sorted(self._links):
            links.setdefault(self._end_of(name), []).append(name)
        for path, (kind, measured, location) in self._found.items():
            place = replace(location, links=tuple(links.get(path, ())))
            known = by_id.get(measured.image_id)
            if known:
                by_id[measured.image_id] = replace(known, locations=(*known.locations, place))
            else:
                by_id[measured.image_id] = FoundImage(kind, self._roles(kind), measured, (place,), self._seeds.get(measured.image_id, ()))
        if not by_id:
            seen = ", ".join(f"{path} ({kind})" for path, kind in self.skipped[:_SHOWN])
            if self._packages and not seen:
                raise RefusedSource("source.nothing", _only(self._packages), seen=", ".join(self._packages))
            hint = ": what matches is of no kind that has a role, so say --role if you want it" if self.selection.patterns and seen else ""
            raise RefusedSource(
                "source.nothing", f"nothing was found that boots and is wanted{hint}; there is {seen or 'nothing else'}", seen=seen or None
            )
        return tuple(by_id.values())

    def _roles(self, kind: BootKind) -> tuple[Role, ...]:
        if self.selection.roles:
            return self.selection.roles
        return (ROLE_OF_KIND[kind],) if kind in ROLE_OF_KIND else ()

    def _end_of(self, name: str) -> str:
        """Follow links inside the source, a bounded number of times."""
        for _ in range(8):
            if name not in self._links:
                return name
            name = self._links[name]
        return ""

    def _watched(self, chunks: Iterator[bytes], path: str) -> Iterator[bytes]:
        for chunk in chunks:
            self.progress(path, len(chunk))
            yield chunk


def _only(packages: Sequence[str]) -> str:
    shown = ", ".join(printable(path) for path in packages)
    return f"nothing was found that boots and is wanted; there are Debian packages, which are opened if you name each with --deb: {shown}"


def _head(chunks: Iterator[bytes], wanted: int) -> bytes:
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) >= wanted:
            break
    return head
