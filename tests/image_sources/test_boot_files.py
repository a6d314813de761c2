"""What a file is, judged by its bytes."""

import bz2
import gzip
import lzma
import struct
import uuid

import pytest

from kbs_rim.image_sources.boot_files import HEAD_BYTES, BootKind, recognise
from kbs_rim.limits import DEFAULT_LIMITS, Limits
from tests.package_forge import PACKERS, arm64_kernel
from tests.pe_builder import PeFile, Section, signed, uki, volume

CPIO = b"070701" + b"0" * 200
PROGRAM = PeFile([Section(".text", b"shim")])
NV_DATA = uuid.UUID("fff12b8d-7696-4c8b-a985-2747075b4f50").bytes_le


def kind(data: bytes, path: str = "/boot/file", limits: Limits = DEFAULT_LIMITS) -> BootKind:
    return recognise(path, data[:HEAD_BYTES], len(data), limits)


def variables() -> bytes:
    """A volume of variables; its header adds up to zero with the other GUID."""
    data = bytearray(volume(8192))
    data[16:32] = NV_DATA
    struct.pack_into("<H", data, 50, 0)
    struct.pack_into("<H", data, 50, -sum(word for (word,) in struct.iter_unpack("<H", bytes(data[:72]))) & 0xFFFF)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (arm64_kernel(), BootKind.KERNEL),
        (gzip.compress(arm64_kernel()), BootKind.KERNEL),
        (PeFile([Section(".text", b"x")], dos=b"MZ" + bytes(54) + b"ARMd").build(), BootKind.KERNEL),
        (CPIO, BootKind.INITRD),
        (gzip.compress(CPIO), BootKind.INITRD),
        (lzma.compress(CPIO), BootKind.INITRD),
        (bz2.compress(CPIO), BootKind.INITRD),
        (PACKERS["zst"](CPIO), BootKind.INITRD),
        (gzip.compress(b"a changelog"), BootKind.OTHER),
        (gzip.compress(CPIO)[:12], BootKind.OTHER),
        (PROGRAM.build(), BootKind.BOOT_LOADER),
        (signed(PROGRAM.build()), BootKind.BOOT_LOADER),
        (PeFile([Section(".text", b"x")], machine=0x8664).build(), BootKind.OTHER),
        (PeFile([Section(".text", b"x")], dos=b"MZ\0\0zimg").build(), BootKind.ZBOOT),
        (PROGRAM.build()[:100], BootKind.OTHER),
        (uki((".linux", b"kernel")), BootKind.UKI),
        (uki((".cmdline", b"quiet")), BootKind.UKI_ADDON),
        (volume(8192), BootKind.FIRMWARE),
        (bytes(4096) + volume(8192), BootKind.FIRMWARE),
        (variables(), BootKind.VARIABLES),
        (volume(8192, checksum=1), BootKind.OTHER),
        (b"\xd0\x0d\xfe\xed" + (72).to_bytes(4, "big") + bytes(64), BootKind.DEVICE_TREE),
        (b"\xd0\x0d\xfe\xed" + (73).to_bytes(4, "big") + bytes(64), BootKind.OTHER),
        (b"#!/bin/sh\n", BootKind.OTHER),
        (b"", BootKind.OTHER),
    ],
)
def test_kinds(data, expected):
    assert kind(data) is expected


@pytest.mark.parametrize(
    ("data", "path", "expected"),
    [
        (gzip.compress(b"an initrd of a form that we do not know"), "/boot/initrd.img-6.1", BootKind.INITRD),
        (gzip.compress(b"the same"), "/lib/modules/6.1/initramfs.img", BootKind.INITRD),
        (b"raw code", "/usr/lib/u-boot/qemu_arm64/u-boot.bin", BootKind.FIRMWARE),
        (PROGRAM.build(), "/usr/lib/systemd/boot/efi/linuxaa64.efi.stub", BootKind.TEMPLATE),
        (b"not packed", "/boot/initrd.img", BootKind.OTHER),
    ],
)
def test_names_decide_where_bytes_say_too_little(data, path, expected):
    assert kind(data, path) is expected


def test_a_bomb_at_the_head_costs_a_head():
    assert kind(gzip.compress(CPIO + bytes(1 << 26), 9)[:HEAD_BYTES]) is BootKind.INITRD
