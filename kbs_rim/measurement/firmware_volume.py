"""Firmware volumes inside a firmware file: EDK2 measures the volume, a VMM loads the file.

Implements PC Client PFP 10 (``EV_EFI_PLATFORM_FIRMWARE_BLOB``); the header is that of the UEFI Platform
Initialization specification, volume 3. Arm's EDK2 builds begin with a page of code and have one volume behind it.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.limits import GRANULE_SIZE
from kbs_rim.measurement import image_document as fields
from kbs_rim.measurement.granules import BLOCK_SIZE, Buffer
from kbs_rim.measurement.spans import Span

_HEADER = struct.Struct("<32xQ4s4xH5xB")
"""Zero vector and GUID, FvLength, signature, (attributes), HeaderLength, (checksum, extended header, reserved), revision."""
_SIGNATURE = b"_FVH"
_REVISION = 2
_U16_COUNT = 0x10000
_VOLUMES_MAX = BLOCK_SIZE // GRANULE_SIZE
_MEMBERS = ("offset", "size", "digests")


@dataclass(frozen=True, slots=True)
class FirmwareVolume:
    """A volume: where it is in the file, in bytes, and the digests of it."""

    offset: int
    size: int
    digests: Mapping[HashAlgorithm, bytes]


def find_volumes(head: Buffer, file_size: int) -> Iterator[Span]:
    """Yield the volumes of a file that begin in ``head``, its first bytes, at a multiple of 4 KiB. They never overlap."""
    view = memoryview(head)[:BLOCK_SIZE]
    at = 0
    while at < len(view):
        size = _volume_size(view[at:])
        if size and at + size <= file_size:
            yield Span(at, at + size)
            at += -(-size // GRANULE_SIZE) * GRANULE_SIZE
        else:
            at += GRANULE_SIZE


def _volume_size(view: memoryview) -> int:
    """Return the length of the volume at the start of ``view``; 0 if there is none."""
    if len(view) < _HEADER.size:
        return 0
    size, signature, header_size, revision = _HEADER.unpack_from(view)
    if signature != _SIGNATURE or revision != _REVISION or header_size % 2 or not _HEADER.size <= header_size <= min(size, len(view)):
        return 0
    total = sum(word for (word,) in struct.iter_unpack("<H", view[:header_size]))
    return 0 if total % _U16_COUNT else int(size)


def volumes_to_document(volumes: Sequence[FirmwareVolume]) -> list[dict[str, Any]]:
    """Return the JSON form."""
    return [
        {"offset": fields.number_to_hex(volume.offset), "size": volume.size, "digests": fields.digests_to_document(volume.digests)}
        for volume in volumes
    ]


def volumes_from_document(value: Any, where: str, file_size: int) -> tuple[FirmwareVolume, ...]:
    """Read what ``volumes_to_document`` wrote of a file of ``file_size`` bytes. Raises ``InvalidDocument``."""
    return tuple(_volume_from_document(item, where, file_size) for item in fields.limited_list(value, where, _VOLUMES_MAX))


def _volume_from_document(value: Any, where: str, file_size: int) -> FirmwareVolume:
    found = fields.members(value, _MEMBERS, where)
    offset = fields.number_from_hex(found["offset"], f"{where}.offset")
    size = fields.whole_number(found["size"], f"{where}.size", low=1, high=max(0, file_size - offset))
    return FirmwareVolume(offset, size, fields.digests_from_document(found["digests"], f"{where}.digests"))
