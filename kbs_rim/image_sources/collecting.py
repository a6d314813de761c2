"""Carries out requests: finds, fetches, checks and measures, and says what happened. The one door of this room."""

import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Protocol

from kbs_rim.errors import RefusedSource
from kbs_rim.image_sources.apt_source import AptRepository, AptSource, Offer
from kbs_rim.image_sources.byte_streams import CHUNK_BYTES, Readable
from kbs_rim.image_sources.deb_package import DebPackage
from kbs_rim.image_sources.finder import ImageFinder, Selection, SourceFile
from kbs_rim.image_sources.oci_layout import OciLayout
from kbs_rim.image_sources.origins import SourcedImage, images_of_folder, images_of_package, sourced
from kbs_rim.image_sources.requests import ImageRequest, RequestKind
from kbs_rim.image_sources.source_limits import DEFAULT_SOURCE_LIMITS, SourceLimits
from kbs_rim.image_sources.sources_file import Sources
from kbs_rim.limits import DEFAULT_LIMITS, Limits
from kbs_rim.measurement.image import Work, in_turn


class Watcher(Protocol):
    """Somebody who watches: is told what is done, and of how many bytes."""

    def fetching(self, what: str, size: int) -> Callable[[int], None]:
        """A download of ``size`` bytes begins; what is returned is told of each part of it."""
        ...

    def hashing(self, path: str, count: int) -> None:
        """``count`` more bytes of a file are being hashed."""
        ...


class Nobody:
    """Nobody watches."""

    def fetching(self, what: str, size: int) -> Callable[[int], None]:
        """Take no notice."""
        return lambda count: None

    def hashing(self, path: str, count: int) -> None:
        """Take no notice."""


@dataclass(slots=True)
class Collector:
    """Carries out requests with what the administrator configured.

    ``newest_seen`` has, for each source, the date of the newest release file that was ever seen; it grows here, and its owner keeps
    it. ``now`` is when all this happens. ``hashed_bytes`` and ``hashing_s`` add up over all requests.
    """

    sources: Sources
    now: datetime
    newest_seen: dict[str, datetime] = field(default_factory=dict)
    cache: Path | None = None
    offline: bool = False
    everything: bool = False
    limits: Limits = DEFAULT_LIMITS
    source_limits: SourceLimits = DEFAULT_SOURCE_LIMITS
    do: Callable[[Sequence[Work]], None] = in_turn
    watcher: Watcher = field(default_factory=Nobody)
    hashed_bytes: int = 0
    hashing_s: float = 0.0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    _repositories: dict[str, AptRepository] = field(default_factory=dict)

    def collect(self, request: ImageRequest) -> tuple[SourcedImage, ...]:
        """Return the images that a request gives, at least one.

        Raises ``RefusedSource``, ``MalformedEvidence`` (``image.*``), ``OurFault``, ``OSError``.
        """
        readers = {
            RequestKind.FILE: self._file,
            RequestKind.DEB: self._deb,
            RequestKind.APT: self._apt,
            RequestKind.DIR: lambda wanted: self._read(wanted, lambda finder: images_of_folder(Path(wanted.value), finder)),
            RequestKind.OCI: self._oci,
        }
        return self._finished(request, readers[request.kind](request))

    def repository(self, source: AptSource) -> AptRepository:
        """Return the repository of a source, whose release file was checked and is not older than any that was seen."""
        if source.name not in self._repositories:
            newest = self.newest_seen.get(source.name)
            repository = AptRepository(
                source, now=self.now, cache=self.cache, offline=self.offline, newest_seen=newest, limits=self.source_limits
            )
            date = repository.release().release.date
            self.newest_seen[source.name] = date if newest is None else max(date, newest)
            self._repositories[source.name] = repository
        return self._repositories[source.name]

    def of_offer(self, offer: Offer, request: ImageRequest) -> tuple[SourcedImage, ...]:
        """Return the images of a package that a signed index offers; of a package that only names kernels, those of these."""
        return self._finished(request, tuple(self._of_offer(offer, request)))

    # --- each kind ----------------------------------------------------------------------------------------------------

    def _file(self, request: ImageRequest) -> tuple[SourcedImage, ...]:
        path = Path(request.value)
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise RefusedSource("source.file", f"{path} is no regular file")
            wanted = replace(request, patterns=("*",))
            entry = SourceFile(path.name, status.st_size, "", None, lambda: iter(lambda: file.read(CHUNK_BYTES), b""))

            def take(finder: ImageFinder) -> tuple[SourcedImage, ...]:
                finder.take(entry)
                return sourced(finder.finish(), "", {"origin": "local file"})

            return self._read(wanted, take)

    def _deb(self, request: ImageRequest) -> tuple[SourcedImage, ...]:
        with Path(request.value).open("rb") as file:
            if request.unsigned:
                return self._package(request, file, None)
            if not self.sources.apt:
                raise RefusedSource(
                    "source.signature",
                    "nobody vouches for the package: name the list of your sources (--sources), or take it on your word (--unsigned)",
                )
            facts = DebPackage(file, self.source_limits).facts
            offer = self._offer(request, facts.package, facts.version)
            file.seek(0)
            return self._package(request, file, offer)

    def _apt(self, request: ImageRequest) -> tuple[SourcedImage, ...]:
        return tuple(self._of_offer(self._offer(request, *request.package), request))

    def _oci(self, request: ImageRequest) -> tuple[SourcedImage, ...]:
        layout = OciLayout(Path(request.value), self.source_limits, reference=request.reference, digest=request.digest)
        return self._read(request, layout.images)

    def _offer(self, request: ImageRequest, package: str, version: str | None) -> Offer:
        """Return the newest offer of the sources that are asked."""
        asked = self.sources.named(request.source)
        offers = [offer for source in asked for offer in self.repository(source).offers(package)]
        fitting = [offer for offer in offers if version in (None, offer.facts.version)]
        if not fitting:
            known = ", ".join(sorted({f"{offer.facts.version} ({offer.source.name})" for offer in offers})) or "no version of it"
            name = package if version is None else f"{package} {version}"
            raise RefusedSource("source.package-unknown", f"no source has {name}; there is {known}", expected=known)
        return max(fitting, key=lambda offer: offer.version)

    def _of_offer(self, offer: Offer, request: ImageRequest) -> Iterator[SourcedImage]:
        repository = self.repository(offer.source)
        stands_for = list(repository.exact_dependencies(offer))
        for item in stands_for or [offer]:
            progress = self.watcher.fetching(f"{item.facts.package} {item.facts.version}", item.size)
            with repository.fetch(item, progress) as file:
                yield from self._package(request, file, item)

    def _package(self, request: ImageRequest, file: Readable, offer: Offer | None) -> tuple[SourcedImage, ...]:
        return self._read(request, lambda finder: images_of_package(file, finder, offer))

    # --- common -------------------------------------------------------------------------------------------------------

    def _read(self, request: ImageRequest, read: Callable[[ImageFinder], tuple[SourcedImage, ...]]) -> tuple[SourcedImage, ...]:
        selection = Selection(request.patterns, request.roles, self.everything)
        finder = ImageFinder(selection, self.limits, self.source_limits, self.do, self.watcher.hashing)
        started = time.perf_counter()
        images = read(finder)
        self.hashing_s += time.perf_counter() - started
        self.hashed_bytes += finder.hashed_bytes
        self.skipped += [(path, kind.value) for path, kind in finder.skipped]
        return images

    def _finished(self, request: ImageRequest, images: tuple[SourcedImage, ...]) -> tuple[SourcedImage, ...]:
        """Put the administrator's own words to what was found, and hold it against what was expected."""
        if request.image_id is not None:
            images = tuple(image for image in images if image.found.measurements.image_id == request.image_id)
            if not images:
                raise RefusedSource("source.unexpected", f"{request.value} does not hold the image that it must", expected=request.image_id)
        if request.name is None:
            return tuple(replace(image, provenance={**image.provenance, **request.provenance}) for image in images)
        if len(images) != 1:
            raise RefusedSource(
                "source.unexpected",
                "one name is given for several images: leave it out, or choose one with --match",
                expected="1 image",
                seen=", ".join(image.found.locations[0].path for image in images[:8]),
            )
        return (replace(images[0], name=request.name, provenance={**images[0].provenance, **request.provenance}),)
