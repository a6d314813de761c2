"""The image files of ``kbs-rim measure``: what a layout must know of them, and their digests, streamed."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    from kbs_rim.measurement.vmm.calculation import MeasurementPlan
    from kbs_rim.measurement.vmm.definition import Role
    from kbs_rim.measurement.vmm.request import ImageSize

_CHUNK_BYTES = 1 << 20
_HEADER_BYTES = 64
_GZIP_MAGIC = b"\x1f\x8b"
_ZBOOT_MAGIC = b"zimg"
_Chunk = TypeVar("_Chunk", bytes, memoryview)


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One image file. ``loaded`` is what the VMM puts into memory: of a packed kernel, the unpacked bytes."""

    path: Path
    packed: bool
    loaded: "ImageSize"

    def chunks(self) -> Iterator[bytes]:
        """Read the loaded bytes, a piece at a time."""
        return _unpacked(self.path) if self.packed else _read(self.path)


def open_image(role: "Role", path: Path) -> ImageFile:
    """Return what is to be known of an image file before it is hashed.

    Raises ``OSError``; ``MalformedEvidence``: ``image.empty``, ``image.too-large``, ``image.gzip``, and ``image.kernel`` for a kernel
    that no VMM starts by itself.
    """
    from kbs_rim.errors import MalformedEvidence
    from kbs_rim.limits import DEFAULT_LIMITS
    from kbs_rim.measurement.vmm.request import ImageSize

    with path.open("rb") as stream:
        head, size = stream.read(_HEADER_BYTES), os.fstat(stream.fileno()).st_size
    if not head:
        raise MalformedEvidence("image.empty", f"{path} is empty")
    if size > DEFAULT_LIMITS.image_bytes:
        raise MalformedEvidence("image.too-large", f"{path} is too large", expected=f"at most {DEFAULT_LIMITS.image_bytes} bytes")
    return _open_kernel(path, head, size) if role == "kernel" else ImageFile(path, packed=False, loaded=ImageSize(size))


def _open_kernel(path: Path, head: bytes, size: int) -> ImageFile:
    from kbs_rim.errors import MalformedEvidence
    from kbs_rim.measurement.image import read_arm64_header
    from kbs_rim.measurement.vmm.request import ImageSize

    header = read_arm64_header(head)
    if header is not None:
        return ImageFile(path, packed=False, loaded=ImageSize(size, header))
    if not head.startswith(_GZIP_MAGIC):
        what = "an EFI zboot file, which firmware starts" if head[4:8] == _ZBOOT_MAGIC else "neither an arm64 Linux Image nor gzip"
        raise MalformedEvidence("image.kernel", f"{path} is {what}")
    unpacked = _unpacked(path)
    first = next(unpacked, b"")
    header = read_arm64_header(first)
    if header is None:
        raise MalformedEvidence("image.kernel", f"{path} unpacks to something that is no arm64 Linux Image")
    return ImageFile(path, packed=True, loaded=ImageSize(len(first) + sum(map(len, unpacked)), header))


def hash_images(
    plan: "MeasurementPlan", files: Mapping[str, ImageFile], progress: Callable[[int], None]
) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Return the granule digests of what is loaded, and the digests of what firmware measures. Memory: 1/64 of the images at most.

    ``progress`` is told how many bytes each piece had. Raises ``MalformedEvidence`` (``image.truncated``) if a file changed meanwhile.
    """
    from kbs_rim.errors import MalformedEvidence
    from kbs_rim.measurement.granules import granule_count, granule_digests

    granules = {}
    for image in plan.images:
        file = files[image.thing]
        found = granule_digests(_counted(file.chunks(), progress), plan.algorithm, image.lead)
        if len(found) != granule_count(image.size, image.lead) * plan.algorithm.digest_size:
            raise MalformedEvidence("image.truncated", f"{file.path} changed while it was read")
        granules[image.thing] = found
    digests = {}
    for thing in plan.extended:
        digest = plan.algorithm.new()
        for chunk in _counted(files[thing].chunks(), progress):
            digest.update(chunk)
        digests[thing] = digest.digest()
    return granules, digests


@contextmanager
def progress_of(total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on stderr while images are hashed, if somebody looks at it."""
    if not sys.stderr.isatty():
        yield lambda _count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("hashing"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("hashing", total=total)
        yield lambda count: bar.advance(task, count)


def read_tree(path: Path) -> bytes:
    """Read a device tree, ``-`` for stdin, up to the limit of a tree and one byte more."""
    from kbs_rim.limits import DEFAULT_LIMITS

    with click.open_file(str(path), "rb") as stream:
        data: bytes = stream.read(DEFAULT_LIMITS.device_tree_bytes + 1)
    return data


def _counted(chunks: Iterator[_Chunk], progress: Callable[[int], None]) -> Iterator[_Chunk]:
    for chunk in chunks:
        progress(len(chunk))
        yield chunk


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            yield chunk


def _unpacked(path: Path) -> Iterator[bytes]:
    from kbs_rim.limits import DEFAULT_LIMITS
    from kbs_rim.measurement.granules import blocks_of
    from kbs_rim.measurement.image import gunzip_first_member

    return gunzip_first_member(blocks_of(_read(path)), DEFAULT_LIMITS.gunzip_bytes)
