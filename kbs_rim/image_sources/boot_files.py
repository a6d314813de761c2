"""Telling files that boot from others, by their first bytes; a name decides only where the bytes say too little.

Formats: Linux Documentation/arch/arm64/booting.rst, UEFI 2.11 chapter 2 (PE), UEFI PI 1.8 volume 3 (firmware volumes),
cpio's "newc" (Linux Documentation/driver-api/early-userspace/buffer-format.rst), Devicetree Specification 0.4 chapter 5.
"""

import io
import posixpath
from enum import StrEnum
from fnmatch import fnmatchcase

from kbs_rim.appraisal.workload import Role
from kbs_rim.errors import MalformedEvidence, RefusedSource
from kbs_rim.image_sources.byte_streams import read_up_to
from kbs_rim.image_sources.decompression import Packing, Unpacked, packing_of
from kbs_rim.image_sources.source_limits import DEFAULT_SOURCE_LIMITS
from kbs_rim.limits import Limits
from kbs_rim.measurement.device_tree_blob import MAGIC_BYTES
from kbs_rim.measurement.firmware_volume import find_volumes
from kbs_rim.measurement.image import read_arm64_header
from kbs_rim.measurement.pe_image import read_pe_headers
from kbs_rim.measurement.uki import UkiForm, form_of

HEAD_BYTES = 256 * 1024
"""What must be seen of a file: a PE file's headers, and where the first firmware volume may begin."""
_UNPACKED_HEAD_BYTES = 64
_ARM64_PE = 0xAA64
_ZBOOT = b"zimg"
_CPIO = (b"070701", b"070702")
_VARIABLES_GUID = bytes.fromhex("8d2bf1ff96768b4ca9852747075b4f50")
"""EFI_SYSTEM_NV_DATA_FV_GUID: the volume holds variables, which change, and no program."""
_VOLUME_GUID = slice(16, 32)
_INITRD_NAMES = ("initrd*", "initramfs*")
_FIRMWARE_NAMES = ("u-boot*.bin",)
_TEMPLATE_NAMES = ("*.efi.stub",)


class BootKind(StrEnum):
    """What a file is to a machine that boots."""

    KERNEL = "kernel"
    INITRD = "initrd"
    FIRMWARE = "firmware"
    BOOT_LOADER = "boot loader"
    UKI = "UKI"
    UKI_ADDON = "UKI addon"
    ZBOOT = "packed EFI kernel"
    DEVICE_TREE = "device tree"
    VARIABLES = "firmware variables"
    TEMPLATE = "UKI stub"
    OTHER = "other"


USUAL_KINDS = frozenset(
    {BootKind.KERNEL, BootKind.INITRD, BootKind.FIRMWARE, BootKind.BOOT_LOADER, BootKind.UKI, BootKind.UKI_ADDON, BootKind.ZBOOT}
)
"""What is taken where nothing is chosen. Kernel packages bring a thousand device trees of boards, which no VM loads."""
ROLE_OF_KIND = {
    BootKind.KERNEL: Role.KERNEL,
    BootKind.INITRD: Role.INITRD,
    BootKind.FIRMWARE: Role.FIRMWARE,
    BootKind.BOOT_LOADER: Role.BOOT_LOADER,
    BootKind.UKI: Role.UKI,
    BootKind.UKI_ADDON: Role.UKI_ADDON,
    BootKind.ZBOOT: Role.BOOT_LOADER,
    BootKind.DEVICE_TREE: Role.DEVICE_TREE,
}
"""The role that an image is registered for if no other is asked for."""


def recognise(path: str, head: bytes, size: int, limits: Limits) -> BootKind:
    """Return what the file of ``size`` bytes is that begins with ``head``: its first ``HEAD_BYTES``, or all of it."""
    name = posixpath.basename(path)
    packing = packing_of(head)
    inner = head if packing is Packing.NONE else _unpacked_head(head, packing)
    if read_arm64_header(inner) is not None and packing in (Packing.NONE, Packing.GZIP):
        return BootKind.KERNEL
    if inner.startswith(_CPIO) or (packing is not Packing.NONE and _named(name, _INITRD_NAMES)):
        return BootKind.INITRD
    if packing is not Packing.NONE or size < 1:
        return BootKind.OTHER
    if head.startswith(MAGIC_BYTES) and int.from_bytes(head[4:8], "big") <= size <= limits.device_tree_bytes:
        return BootKind.DEVICE_TREE
    if head.startswith((b"MZ", b"PE\0\0")):
        return _program(name, head, size, limits)
    volumes = list(find_volumes(head, size))
    if volumes:
        first = volumes[0]
        holds_variables = first.start == 0 and head[_VOLUME_GUID] == _VARIABLES_GUID
        return BootKind.VARIABLES if holds_variables else BootKind.FIRMWARE
    return BootKind.FIRMWARE if _named(name, _FIRMWARE_NAMES) else BootKind.OTHER


def _program(name: str, head: bytes, size: int, limits: Limits) -> BootKind:
    try:
        headers = read_pe_headers(head, size, limits)
    except MalformedEvidence:
        return BootKind.OTHER  # no firmware would load it, so nothing measures it
    if headers is None or headers.machine != _ARM64_PE:
        return BootKind.OTHER
    form = form_of({section.name for section in headers.sections if section.virtual_size})
    if form is not None:
        return BootKind.UKI if form is UkiForm.UKI else BootKind.UKI_ADDON
    if head[4:8] == _ZBOOT:
        return BootKind.ZBOOT
    return BootKind.TEMPLATE if _named(name, _TEMPLATE_NAMES) else BootKind.BOOT_LOADER


def _unpacked_head(head: bytes, packing: Packing) -> bytes:
    try:
        return read_up_to(Unpacked(io.BytesIO(head), packing, DEFAULT_SOURCE_LIMITS), _UNPACKED_HEAD_BYTES)
    except RefusedSource:
        return b""


def _named(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
