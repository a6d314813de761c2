"""Images as an administrator registers them: what they are, and every digest that a replay may need.

Implements Linux's arm64 boot protocol (Image header, gzip'd kernels). Trusts nothing about the
bytes: an image may be damaged or hostile, and its size is bounded before anything is unpacked or kept.
"""

import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from itertools import chain
from typing import Any, TypeVar

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.limits import DEFAULT_LIMITS, GRANULE_SIZE, Limits
from kbs_rim.measurement import image_document as fields
from kbs_rim.measurement.device_tree import DeviceTreeFacts, facts_of, parse_device_tree
from kbs_rim.measurement.device_tree_blob import MAGIC_BYTES
from kbs_rim.measurement.firmware_volume import FirmwareVolume, volumes_from_document, volumes_to_document
from kbs_rim.measurement.granules import BLOCK_SIZE, Alignment, Buffer, HashedBytes, ImageHasher, blocks_of, granule_count, lead_of
from kbs_rim.measurement.measured_parts import MeasuredDigest, PartsReader, digests_of_parts
from kbs_rim.measurement.pe_facts import PeFacts

_Key = TypeVar("_Key")
_Kind = TypeVar("_Kind", bound=StrEnum)
PART_MEMBERS = ("pe", "volumes")
"""Members that documents from before they existed lack."""
_MEMBERS = ("kind", "compression", "file_size", "file_digests", "size", "digests", "kernel", "device_tree", "granules", *PART_MEMBERS)
_KERNEL_MEMBERS = ("text_offset", "image_size", "flags")
_ARM64_HEADER = struct.Struct("<8xQQQ24x4s4x")
"""code0, code1, text_offset, image_size, flags, three reserved words, magic, res5 (Linux Documentation/arch/arm64/booting.rst)."""
_ARM64_MAGIC = b"ARMd"
_GZIP_MAGIC = b"\x1f\x8b\x08"
_GZIP_WINDOW = 31


class ImageKind(StrEnum):
    """What an image is, judged by its loaded bytes."""

    ARM64_IMAGE = "arm64-image"
    DEVICE_TREE = "device-tree"
    BLOB = "blob"


class Compression(StrEnum):
    """How the file stores the bytes that the VMM loads."""

    GZIP = "gzip"


@dataclass(frozen=True, slots=True)
class Arm64Header:
    """The fields of an arm64 Linux Image header that decide where it goes; bytes, and raw flags."""

    text_offset: int
    image_size: int
    flags: int

    def __post_init__(self) -> None:
        for name in ("text_offset", "image_size", "flags"):
            if not 0 <= getattr(self, name) < 1 << 64:
                raise ValueError(f"{name} must fit 64 bits")


@dataclass(frozen=True, slots=True)
class ImageMeasurements:
    """All we know of one image. ``size`` and ``digests`` are of the bytes that the VMM loads, ``file_*`` of the file.

    ``pe`` and ``volumes`` are what firmware and boot loaders measure of the loaded bytes, beside these digests: of a PE file, and
    of firmware. ``granules`` holds, for each hash algorithm and alignment, the digests of the granules laid end to end. A store
    may hand out an image with the granules of some algorithms only (``with_granules_of``); a replay needs those of the realm's
    algorithm.

    Raises ``ValueError`` if the parts contradict each other.
    """

    kind: ImageKind
    compression: Compression | None
    file_size: int
    file_digests: Mapping[HashAlgorithm, bytes]
    size: int
    digests: Mapping[HashAlgorithm, bytes]
    kernel: Arm64Header | None
    device_tree: DeviceTreeFacts | None
    granules: Mapping[tuple[HashAlgorithm, Alignment], bytes]
    pe: PeFacts | None = None
    volumes: tuple[FirmwareVolume, ...] = ()

    def __post_init__(self) -> None:
        if self.size < 1 or self.file_size < 1:
            raise ValueError("an image has at least one byte")
        if (self.kernel is not None) != (self.kind is ImageKind.ARM64_IMAGE):
            raise ValueError("a kernel header belongs to an arm64-image and to nothing else")
        if (self.device_tree is not None) != (self.kind is ImageKind.DEVICE_TREE):
            raise ValueError("device tree facts belong to a device-tree and to nothing else")
        if self.pe is not None and (self.kind is ImageKind.DEVICE_TREE or self.volumes):
            raise ValueError("a PE file is no device tree, and holds no firmware volumes")
        if self.compression is not None and self.kernel is None:
            raise ValueError("only kernels are unpacked before they are loaded")
        if self.compression is None and (self.file_size, dict(self.file_digests)) != (self.size, dict(self.digests)):
            raise ValueError("file and loaded bytes differ though the file is not compressed")
        for digests in (self.file_digests, self.digests):
            _check_lengths(digests, {algorithm: algorithm.digest_size for algorithm in HashAlgorithm})
        present = self.granule_algorithms
        expected = {
            (algorithm, alignment): granule_count(self.size, lead_of(alignment, self.size)) * algorithm.digest_size
            for algorithm in present
            for alignment in Alignment
        }
        _check_lengths(self.granules, expected)
        if lead_of(Alignment.END, self.size) == 0:
            for algorithm in present:
                if self.granules[algorithm, Alignment.START] != self.granules[algorithm, Alignment.END]:
                    raise ValueError("the two alignments of this size are one, but their granules differ")

    @property
    def image_id(self) -> str:
        """``sha256:`` and the SHA-256 of the loaded bytes in hex: the name of the image in workloads and records."""
        return f"sha256:{self.digests[HashAlgorithm.SHA256].hex()}"

    @property
    def granule_algorithms(self) -> tuple[HashAlgorithm, ...]:
        """The algorithms whose granule digests are here; all of them where an image is registered."""
        present = {algorithm for algorithm, _ in self.granules}
        return tuple(algorithm for algorithm in HashAlgorithm if algorithm in present)

    def with_granules_of(self, *algorithms: HashAlgorithm) -> "ImageMeasurements":
        """Return the same image with the granule digests of these algorithms only, perhaps of none."""
        return replace(self, granules={key: value for key, value in self.granules.items() if key[0] in algorithms})

    def granules_at(self, base: int, algorithm: HashAlgorithm) -> bytes | None:
        """Return the granule digests for an image loaded at address ``base``, or None if no layout has that offset.

        Raises ``KeyError`` if the digests of ``algorithm`` are not here.
        """
        offset = base % GRANULE_SIZE
        for alignment in Alignment:
            if lead_of(alignment, self.size) == offset:
                return self.granules[algorithm, alignment]
        return None

    def measured_digests(self) -> tuple[MeasuredDigest, ...]:
        """Return every digest that a log may hold for this image, each once for each thing that it is the digest of."""
        whole = [("file", self.file_digests)]
        if self.compression is not None:
            whole.append(("loaded", self.digests))
        found = [MeasuredDigest(what, algorithm, digest) for what, digests in whole for algorithm, digest in digests.items()]
        return tuple(dict.fromkeys((*found, *digests_of_parts(self.pe, self.volumes))))

    def to_document(self) -> dict[str, Any]:
        """Return the JSON form in which an image is registered and stored; ``from_document`` reads it back."""
        kernel = self.kernel
        return {
            "kind": self.kind.value,
            "compression": None if self.compression is None else self.compression.value,
            "file_size": self.file_size,
            "file_digests": fields.digests_to_document(self.file_digests),
            "size": self.size,
            "digests": fields.digests_to_document(self.digests),
            "kernel": None if kernel is None else {name: fields.number_to_hex(getattr(kernel, name)) for name in _KERNEL_MEMBERS},
            "device_tree": None if self.device_tree is None else fields.facts_to_document(self.device_tree),
            "granules": {
                algorithm.compact_name: {
                    alignment.value: fields.base64_to_document(self.granules[algorithm, alignment]) for alignment in Alignment
                }
                for algorithm in self.granule_algorithms
            },
            "pe": None if self.pe is None else self.pe.to_document(),
            "volumes": volumes_to_document(self.volumes),
        }

    @classmethod
    def from_document(cls, document: Any, limits: Limits = DEFAULT_LIMITS, *, partial: bool = False) -> "ImageMeasurements":
        """Read what ``to_document`` wrote, or a client sent. Every length is checked against ``size``.

        ``partial`` is for stores: then the granules of some or all algorithms may be missing. A document without ``pe`` or
        ``volumes`` is one from before they existed.

        Raises ``InvalidDocument`` (``document.image``), naming the member.
        """
        members = fields.members(document, _MEMBERS, "image", optional=PART_MEMBERS)
        most = max(limits.image_bytes, limits.gunzip_bytes)
        size = fields.whole_number(members["size"], "size", low=1, high=most)
        try:
            return cls(
                kind=_one_of(ImageKind, members["kind"], "kind"),
                compression=None if members["compression"] is None else _one_of(Compression, members["compression"], "compression"),
                file_size=fields.whole_number(members["file_size"], "file_size", low=1, high=limits.image_bytes),
                file_digests=fields.digests_from_document(members["file_digests"], "file_digests"),
                size=size,
                digests=fields.digests_from_document(members["digests"], "digests"),
                kernel=None if members["kernel"] is None else _kernel_from_document(members["kernel"]),
                device_tree=None
                if members["device_tree"] is None
                else fields.facts_from_document(members["device_tree"], "device_tree", size),
                granules=_granules_from_document(members["granules"], size, partial=partial),
                pe=None if members.get("pe") is None else PeFacts.from_document(members["pe"], "pe", size, limits),
                volumes=volumes_from_document(members.get("volumes", []), "volumes", size),
            )
        except ValueError as error:
            raise fields.invalid("image", str(error)) from None


def _one_of(kinds: type[_Kind], value: Any, where: str) -> _Kind:
    for kind in kinds:
        if kind.value == value:
            return kind
    raise fields.invalid(where, f"must be one of {', '.join(kinds)}")


def _kernel_from_document(value: Any) -> Arm64Header:
    members = fields.members(value, _KERNEL_MEMBERS, "kernel")
    return Arm64Header(*(fields.number_from_hex(members[name], f"kernel.{name}") for name in _KERNEL_MEMBERS))


def _granules_from_document(value: Any, size: int, *, partial: bool) -> dict[tuple[HashAlgorithm, Alignment], bytes]:
    algorithms = [
        algorithm for algorithm in HashAlgorithm if not (partial and isinstance(value, Mapping) and algorithm.compact_name not in value)
    ]
    by_algorithm = fields.members(value, [algorithm.compact_name for algorithm in algorithms], "granules")
    found = {}
    for algorithm in algorithms:
        where = f"granules.{algorithm.compact_name}"
        by_alignment = fields.members(by_algorithm[algorithm.compact_name], list(Alignment), where)
        for alignment in Alignment:
            length = granule_count(size, lead_of(alignment, size)) * algorithm.digest_size
            found[algorithm, alignment] = fields.base64_from_document(by_alignment[alignment.value], f"{where}.{alignment}", length)
    return found


def _check_lengths(values: Mapping[_Key, bytes], expected: Mapping[_Key, int]) -> None:
    if {key: len(value) for key, value in values.items()} != expected:
        raise ValueError("digests are missing, unexpected or of the wrong length")


def measure_image(data: bytes, limits: Limits = DEFAULT_LIMITS) -> ImageMeasurements:
    """Measure an image that is in memory. Errors as for ``measure_stream``."""
    return measure_stream((data,), len(data), limits)


Work = Callable[[], None]


def in_turn(works: Sequence[Work]) -> None:
    """Do pieces of work one after the other."""
    for work in works:
        work()


def measure_stream(
    chunks: Iterable[Buffer], size: int, limits: Limits = DEFAULT_LIMITS, do: Callable[[Sequence[Work]], None] = in_turn
) -> ImageMeasurements:
    """Measure a file of ``size`` bytes that comes in chunks, in one pass and without keeping it.

    ``do`` does pieces of work that share nothing, the longest last, and returns when all are done: the caller may share them out.

    Only what must be read as a whole is kept: a device tree, and the unpacked bytes of a gzip'd kernel, up to
    ``limits.gunzip_bytes``. A gzip file with another content (an initrd) is loaded as it is, so it is measured as it is.
    Of a gzip file only the first member counts, as for the VMMs.

    Raises ``MalformedEvidence``: ``image.empty``, ``image.too-large``, ``image.truncated`` (other length than ``size``),
    ``image.gzip`` (damaged), ``image.pe`` (a PE file that firmware would refuse, and no kernel), ``tree.malformed``.
    """
    if size < 1:
        raise MalformedEvidence("image.empty", "the image is empty")
    if size > limits.image_bytes:
        raise MalformedEvidence("image.too-large", "the image is too large", expected=f"at most {limits.image_bytes} bytes", seen=str(size))
    blocks = blocks_of(_exactly(chunks, size))
    first = next(blocks)
    blocks = chain((first,), blocks)
    if _is_gzipped_kernel(first):
        return _measure_gzipped_kernel(blocks, size, limits, do)
    tree = bytearray() if first[:4] == MAGIC_BYTES and size <= limits.device_tree_bytes else None
    kernel = read_arm64_header(first)
    hasher = ImageHasher(size)
    parts = PartsReader(first, size, limits, is_kernel=kernel is not None)
    for block in blocks:
        do((partial(parts.update, block), *hasher.works(block)))
        if tree is not None:
            tree += block
    facts = None if tree is None else facts_of(parse_device_tree(bytes(tree), limits), size, limits)
    return _measurements(hasher.finish(), kernel, facts, parts)


def read_arm64_header(head: Buffer) -> Arm64Header | None:
    """Return the header at the start of ``head``, or None if this is not an arm64 Linux Image."""
    if len(head) < _ARM64_HEADER.size:
        return None
    text_offset, image_size, flags, magic = _ARM64_HEADER.unpack_from(head)
    return Arm64Header(text_offset, image_size, flags) if magic == _ARM64_MAGIC else None


def _measurements(hashed: HashedBytes, kernel: Arm64Header | None, facts: DeviceTreeFacts | None, parts: PartsReader) -> ImageMeasurements:
    if kernel is not None and facts is not None:
        raise MalformedEvidence("tree.malformed", "the image is a device tree and begins like a kernel as well")
    kind = ImageKind.ARM64_IMAGE if kernel else ImageKind.DEVICE_TREE if facts else ImageKind.BLOB
    pe, volumes = parts.finish()
    size, digests = hashed.size, hashed.digests
    return ImageMeasurements(kind, None, size, digests, size, digests, kernel, facts, hashed.granules, pe, volumes)


def _exactly(chunks: Iterable[Buffer], size: int) -> Iterator[Buffer]:
    """Pass ``chunks`` on and refuse a sum that is not ``size``: the padding of the layouts was chosen by it."""
    seen = 0
    for chunk in chunks:
        seen += len(chunk)
        if seen > size:
            break
        yield chunk
    if seen != size:
        raise MalformedEvidence("image.truncated", "the image does not have the announced length", expected=str(size), seen=str(seen))


def _is_gzipped_kernel(first: memoryview) -> bool:
    """Look at the first bytes that ``first`` unpacks to. Damage behind them shows later, when everything is unpacked."""
    if first[:3] != _GZIP_MAGIC:
        return False
    try:
        head = zlib.decompressobj(_GZIP_WINDOW).decompress(first, _ARM64_HEADER.size)
    except zlib.error:
        return False
    return read_arm64_header(head) is not None


def _measure_gzipped_kernel(
    blocks: Iterable[memoryview], file_size: int, limits: Limits, do: Callable[[Sequence[Work]], None]
) -> ImageMeasurements:
    file_digests = {algorithm: algorithm.new() for algorithm in HashAlgorithm}

    def hashed_blocks() -> Iterator[memoryview]:
        for block in blocks:
            for digest in file_digests.values():
                digest.update(block)
            yield block

    unpacked = list(gunzip_first_member(hashed_blocks(), limits.gunzip_bytes))
    size = sum(map(len, unpacked))
    hasher = ImageHasher(size)
    unpacked_blocks = blocks_of(unpacked)
    first = next(unpacked_blocks)
    parts = PartsReader(first, size, limits, is_kernel=True)
    for block in chain((first,), unpacked_blocks):
        do((partial(parts.update, block), *hasher.works(block)))
    hashed = hasher.finish()
    pe, volumes = parts.finish()
    return ImageMeasurements(
        kind=ImageKind.ARM64_IMAGE,
        compression=Compression.GZIP,
        file_size=file_size,
        file_digests={algorithm: digest.digest() for algorithm, digest in file_digests.items()},
        size=size,
        digests=hashed.digests,
        kernel=read_arm64_header(first),
        device_tree=None,
        granules=hashed.granules,
        pe=pe,
        volumes=volumes,
    )


def gunzip_first_member(blocks: Iterable[memoryview], limit: int) -> Iterator[bytes]:
    """Yield the unpacked first member in pieces, of ``limit`` bytes at most; consume ``blocks`` to their end all the same.

    Raises ``MalformedEvidence``: ``image.gzip`` if it is damaged or cut off, ``image.too-large``.
    """
    unpacker = zlib.decompressobj(_GZIP_WINDOW)
    size = 0
    for block in blocks:
        packed: Buffer = block
        while packed and not unpacker.eof:
            try:
                piece = unpacker.decompress(packed, BLOCK_SIZE)
            except zlib.error:
                raise MalformedEvidence("image.gzip", "the gzip'd kernel is damaged") from None
            packed = unpacker.unconsumed_tail
            size += len(piece)
            if size > limit:
                raise MalformedEvidence("image.too-large", "the gzip'd kernel unpacks to too much", expected=f"at most {limit} bytes")
            if piece:
                yield piece
    if not unpacker.eof:
        raise MalformedEvidence("image.gzip", "the gzip'd kernel is cut off")
