"""What firmware and boot loaders measure of a file beside the file itself: collected while it passes.

Holds Authenticode digests, sections of UKIs, the initrd of systemd-stub, EDK2's
firmware volumes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.limits import Limits
from kbs_rim.measurement.firmware_volume import FirmwareVolume, find_volumes
from kbs_rim.measurement.pe_facts import PeFacts, PeReader
from kbs_rim.measurement.pe_image import read_pe_headers
from kbs_rim.measurement.spans import Span, SpanReader


@dataclass(frozen=True, slots=True)
class MeasuredDigest:
    """A digest that a log may hold for an image, and what it is of.

    ``what`` is ``loaded``, ``file``, ``authenticode``, ``authenticode-padded``, ``section .NAME``, ``initrd`` or ``volume``.
    """

    what: str
    algorithm: HashAlgorithm
    digest: bytes


class PartsReader:
    """Reads a file of ``size`` bytes that begins with ``head``; takes it whole, ``head`` included, by ``update``."""

    def __init__(self, head: memoryview, size: int, limits: Limits, *, is_kernel: bool = False) -> None:
        """``is_kernel``: a VMM loads the file without firmware as well, so a PE header that no firmware takes is no reason to refuse it.

        Raises ``MalformedEvidence``: ``image.pe``, ``image.too-large``.
        """
        self._pe: PeReader | None = None
        try:
            headers = read_pe_headers(head, size, limits)
            self._pe = PeReader(headers, limits) if headers else None
        except MalformedEvidence:
            if not is_kernel:
                raise
        self._volumes = list(find_volumes(head, size)) if self._pe is None else []
        self._reader: SpanReader[Span] = SpanReader()
        for span in self._volumes:
            self._reader.add_digest(span, (span,))

    def update(self, block: memoryview) -> None:
        """Take the next bytes of the file."""
        if self._pe:
            self._pe.update(block)
        if self._volumes:
            self._reader.update(block)

    def finish(self) -> tuple[PeFacts | None, tuple[FirmwareVolume, ...]]:
        """Return what was found, once the whole file was seen."""
        digests, _ = self._reader.finish()
        volumes = tuple(FirmwareVolume(span.start, span.size, digests[span]) for span in self._volumes)
        return self._pe.finish() if self._pe else None, volumes


def digests_of_parts(pe: PeFacts | None, volumes: tuple[FirmwareVolume, ...]) -> Iterator[MeasuredDigest]:
    """Yield every digest of ``pe`` and ``volumes``, perhaps some of them twice."""
    for volume in volumes:
        yield from _named("volume", volume.digests)
    if pe is None:
        return
    yield from _named("authenticode", pe.authenticode)
    yield from _named("authenticode-padded", pe.authenticode_padded or {})
    if pe.uki:
        for section in pe.uki.sections:
            yield from _named(f"section {section.name}", section.digests)
        for initrd in pe.uki.initrds:
            yield from _named("initrd", initrd or {})


def _named(what: str, digests: Mapping[HashAlgorithm, bytes]) -> Iterator[MeasuredDigest]:
    for algorithm, digest in digests.items():
        yield MeasuredDigest(what, algorithm, digest)
