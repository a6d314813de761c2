"""VMs built from files, against RIMs that the reference tool computed for the same command lines."""

import gzip
import json
import struct

import pytest

from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.measurement.vmm import HostParameters
from kbs_rim.realm.failures import SimulationFailed
from kbs_rim.realm.host_script import HostHabits, perform
from kbs_rim.realm.rim_model import RealmHash, RmmGeneration
from kbs_rim.realm.vm_builder import VmDefinition, VmFiles, build_script

MIB, GIB = 1 << 20, 1 << 30
CASES = [
    # id, VMM, boot, CPUs, memory, bootargs, log, ITS, kernel, initrd, firmware
    ("X002", "kvmtool", "firmware", 8, GIB, "root=/dev/vda2 quiet", False, True, None, None, "firmware.bin"),
    ("X006", "kvmtool", "kernel", 1, GIB, None, False, True, "linux.bin.gz", "initrd-unaligned.bin", None),
    ("X012", "kvmtool", "kernel", 3, 2 * GIB, "console=ttyS0", True, True, "linux.bin", None, None),
    ("X024", "kvmtool", "kernel", 8, 2 * GIB, "console=ttyS0", True, True, "linux.bin", "initrd-unaligned.bin", None),
    ("X030", "kvmtool", "kernel", 2, GIB, "console=ttyS0", False, False, "linux.bin.gz", "initrd.bin", None),
    ("X040", "qemu", "firmware", 2, GIB, None, False, False, None, None, "firmware.bin"),
    ("X047", "qemu", "kernel", 16, 2 * GIB, None, False, True, "linux.bin", None, None),
    ("X048", "qemu", "firmware", 2, 128 * MIB, None, True, True, None, None, "firmware.bin"),
    ("X049", "qemu", "kernel", 12, 96 * MIB, None, True, True, "linux.bin", "initrd-unaligned.bin", None),
    ("X056", "qemu", "kernel", 2, 2 * GIB, None, False, True, "linux.bin", "initrd.bin", None),
]


@pytest.fixture(scope="module")
def reference(vectors):
    cases = json.loads((vectors / "vmm" / "vmm-extra-public.json").read_text())["cases"]
    return {case["id"]: case["expected"] for case in cases}


def image(vectors, name):
    made = {"firmware.bin": b"FW CONTENT", "initrd.bin": b"INITRD CONTENT"}
    return None if name is None else made.get(name) or (vectors / "vmm" / "images" / name).read_bytes()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_rims_of_the_reference(vectors, reference, case):
    name, vmm, boot, cpus, memory, append, log, its, *files = case
    expected = reference[name]
    params = expected["measured_params"]
    host = HostParameters(
        hash_algorithm=HashAlgorithm.from_name(params["hash_algo"]),
        num_bps=params["num_bps"],
        num_wps=params["num_wps"],
        pmu_num_ctrs=params["pmu_num_ctrs"] or 0,
        sve_vl=params["sve_vl"] or 0,
        lpa2=params["lpa2"],
    )
    vm = VmDefinition(
        vmm=vmm, boot=boot, cpus=cpus, memory=memory, append=append, host=host, pmu=bool(params["pmu"]), its=its, measurement_log=log
    )
    kernel, initrd, firmware = (image(vectors, file) for file in files)
    script = build_script(vm, VmFiles(kernel=kernel, initrd=initrd, firmware=firmware))
    realm = perform(script, RmmGeneration.V1, HostHabits())
    assert realm.measurements.rim.hex() == expected["rim_hex"]


def kernel_image(size=9000, text_offset=0):
    return struct.pack("<IIQQQ24x4sI", 0, 0, text_offset, 0x20000, 0xA, b"ARMd", 0).ljust(size, b"k")


def definition(**changes):
    return VmDefinition(**({"vmm": "qemu", "boot": "kernel", "memory": 256 * MIB} | changes))


def test_a_gzipped_kernel_is_loaded_unpacked():
    plain, packed = (build_script(definition(), VmFiles(kernel=data)) for data in (kernel_image(), gzip.compress(kernel_image())))
    assert bytes(plain.load("KERNEL").data) == bytes(packed.load("KERNEL").data)


@pytest.mark.parametrize(
    ("changes", "files", "text"),
    [
        ({}, VmFiles(kernel=b"not a kernel" * 100), "arm64"),
        ({}, VmFiles(kernel=gzip.compress(kernel_image())[:40]), "cut off"),
        ({}, VmFiles(kernel=b"\x1f\x8bnot gzip"), "damaged"),
        ({"boot": "firmware"}, VmFiles(firmware=b"fw", kernel=kernel_image()), "leave them out"),
        ({"rpv": bytes(65)}, VmFiles(kernel=kernel_image()), "RPV"),
        ({"vmm": "kvmtool"}, VmFiles(kernel=kernel_image(), device_tree=bytes(65537)), "64 KiB"),
    ],
)
def test_files_that_this_vm_cannot_use(changes, files, text):
    with pytest.raises(SimulationFailed, match=text):
        build_script(definition(**changes), files)


def test_secondary_vcpus_are_not_runnable():
    recs = build_script(definition(cpus=4), VmFiles(kernel=kernel_image())).recs
    assert [rec.flags for rec in recs] == [1, 0, 0, 0]


def test_a_given_device_tree_takes_the_place_of_the_generated_one():
    script = build_script(definition(), VmFiles(kernel=kernel_image(), device_tree=b"my tree"))
    assert bytes(script.load("DTB").data) == b"my tree"
    padded = build_script(definition(vmm="kvmtool"), VmFiles(kernel=kernel_image(), device_tree=b"my tree"))
    assert bytes(padded.load("DTB").data) == b"my tree".ljust(65536, b"\0")


def test_rpv_and_encryption_policy_reach_the_parameters():
    params = build_script(definition(rpv=b"me", memory_private=True), VmFiles(kernel=kernel_image())).params
    assert params.rpv == b"me".ljust(64, b"\0")
    assert params.flags & 1 << 7
    assert params.hash is RealmHash.SHA256
