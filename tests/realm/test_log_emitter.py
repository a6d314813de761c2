"""The emitted log, byte for byte."""

import hashlib
import json
import struct

import pytest

from kbs_rim.realm.failures import SimulationFailed
from kbs_rim.realm.log_emitter import (
    LOG_AREA_SIZE,
    BlobRecord,
    CreateRecord,
    LogEmitter,
    LogStyle,
    RawRecord,
    RecRecord,
    RipasRecord,
    VmRecord,
    VmVersionLayout,
)
from kbs_rim.realm.rim_model import RealmHash, RealmParams, RecParams

QEMU = LogStyle("QEMU", "9.1")


@pytest.mark.parametrize("hash_", [RealmHash.SHA256, RealmHash.SHA512])
def test_same_bytes_as_the_synthetic_vector(vectors, hash_):
    folder = vectors / "logs" / "synthetic"
    expected = (folder / f"emitter-layout-kernel-{hash_.value}.bin").read_bytes()
    used = json.loads((folder / "expected.json").read_text())[f"emitter-layout-kernel-{hash_.value}.bin"]["used_bytes"]
    assert build_like(expected, folder / "images", hash_)[:used] == expected[:used]


def build_like(expected, images, hash_):
    """Take the few free values (addresses, counts) from the vector and write everything else ourselves."""
    size = hash_.size
    at = 65 + 14 + size + 4
    ram, cpus = struct.unpack_from("<QI", expected, at + 88)
    at += 112 + 16 + 8
    flags, *small = struct.unpack_from("<QBBBBBB", expected, at)
    at += 16 + 16 + 8
    base, length = struct.unpack_from("<QQ", expected, at)
    at += 16
    log = LogEmitter(hash_, QEMU)
    log.write(VmRecord(ram, cpus, None))
    log.write(CreateRecord(RealmParams(hash_, flags, *small[:5])))
    log.write(RipasRecord(base, length))
    for name, file in (("KERNEL", "kernel"), ("INITRD", "initrd"), ("DTB", "dtb")):
        data = (images / f"{file}.bin").read_bytes()
        at += 12 + 2 + size + 4 + 1 + len(name)
        log.write(BlobRecord(name, struct.unpack_from("<Q", expected, at)[0], len(data), hashlib.new(hash_.value, data).digest()))
        at += 16
    at += 16 + 8
    flags, pc, *gprs = struct.unpack_from("<QQ8Q", expected, at)
    log.write(RecRecord(RecParams(flags, pc, tuple(gprs))))
    at += 80 + 16 + 4
    log.write(BlobRecord("LOG", *struct.unpack_from("<QQ", expected, at), None))
    return log.finish()


def test_record_lengths_of_the_specification():
    """As QEMU writes them: VM VERSION 162, REALM_CREATE 40, INIT_RIPAS 40, REC_CREATE 104, image 67 + n, LOG 36."""

    def length(write):
        log = LogEmitter(RealmHash.SHA256, QEMU)
        write(log)
        return log.used_bytes - 65

    params = RealmParams(RealmHash.SHA256, 0, 41)
    assert length(lambda log: log.write(VmRecord(1, 1, None))) == 162
    assert length(lambda log: log.write(CreateRecord(params))) == 40
    assert length(lambda log: log.write(RipasRecord(0, 4096))) == 40
    assert length(lambda log: log.write(RecRecord(RecParams(1, 0, (0,) * 8)))) == 104
    assert length(lambda log: log.write(BlobRecord("KERNEL", 0, 1, bytes(32)))) == 67 + 6
    assert length(lambda log: log.write(BlobRecord("LOG", 0, 1, None))) == 36


def test_documented_layout_and_nul_descriptions():
    log = LogEmitter(RealmHash.SHA256, LogStyle("kvmtool", "3", VmVersionLayout.DOCUMENTED, nul_descriptions=True))
    log.write(VmRecord(1 << 30, 2, (0x8FFF0000, 0x10000)))
    log.write(BlobRecord("DTB", 0x8FE00000, 0x10000, bytes(32)))
    data = log.finish()
    assert struct.unpack_from("<I", data, 65 + 12 + 34)[0] == 116
    assert b"\x04DTB\0" in data


def test_the_area_is_padded_with_zeros_and_never_overrun():
    log = LogEmitter(RealmHash.SHA384, QEMU)
    assert len(log.finish()) == LOG_AREA_SIZE
    log.write(RawRecord(bytes(LOG_AREA_SIZE)))
    with pytest.raises(SimulationFailed, match="area"):
        log.finish()
