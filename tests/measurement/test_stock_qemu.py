"""QEMU's own device tree: against trees that QEMU dumped, and against what each option changed in them."""

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbs_rim.errors import InvalidDocument
from kbs_rim.measurement.device_tree import facts_of, parse_device_tree
from kbs_rim.measurement.device_tree_diff import Change, Subject, diff_trees
from kbs_rim.measurement.device_tree_layout import read_tree_file
from kbs_rim.measurement.image import Arm64Header
from kbs_rim.measurement.vmm.profile import GIB, Region
from kbs_rim.measurement.vmm.stock_qemu import stock_qemu_tree
from kbs_rim.measurement.vmm.stock_qemu_arguments import read_stock_arguments
from kbs_rim.measurement.vmm.stock_qemu_definition import BootFiles, HostFacts, stock_machine
from kbs_rim.measurement.vmm.stock_qemu_profile import VERSIONS, CpuCaches, qemu_version
from kbs_rim.measurement.vmm.stock_qemu_request import NumaNode, Seeds, StockQemu, Topology

IMAGES = Path(__file__).parent.parent / "vectors" / "images"
DUMPS = json.loads((IMAGES / "qemu-dtb" / "manifest.json").read_text())["files"]
KERNEL = Arm64Header(text_offset=0, image_size=28_573_696, flags=0xA)
FILES = BootFiles(kernel=KERNEL, initrd_size=3_000_000)
MIB = 1 << 20
BASE = ("-M", "virt,gic-version=3,dtb-randomness=off", "-cpu", "max", "-m", "512M", "-smp", "2")


def make(version: str, *arguments: str, seeds: Seeds | None = None, host: HostFacts | None = None) -> bytes:
    read = read_stock_arguments(arguments)
    return stock_qemu_tree(stock_machine(read, qemu_version(version), FILES, host or HostFacts(), seeds))


def machine(version: str = "11.1", **changes: object) -> StockQemu:
    profile = qemu_version(version)
    values = {"version": profile, "cpu": profile.cpus["max"], "topology": Topology(2, cores=2), "ram_size": 512 * MIB}
    return StockQemu(**(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("dump", DUMPS, ids=[entry["file"] for entry in DUMPS])
def test_every_dumped_tree_byte_for_byte(dump):
    stored = (IMAGES / "qemu-dtb" / dump["file"]).read_bytes().ljust(dump["dump_size"], b"\0")
    assert hashlib.sha256(stored).hexdigest() == dump["dump_sha256"]
    chosen = parse_device_tree(stored).root.child("chosen")
    seeds = None
    if not dump["reproducible"]:
        seeds = Seeds(chosen.properties["kaslr-seed"], chosen.properties["rng-seed"])
    version = re.match(r"qemu-([0-9.]+)-", dump["file"])[1]
    assert make(version, *dump["command"], seeds=seeds) == stored


def variations() -> list[tuple[str, int, list[str]]]:
    """Title, number of differences and the lines of each entry of the file."""
    found: list[tuple[str, int, list[str]]] = []
    for line in (IMAGES / "qemu-dtb-variation-11.1.txt").read_text().splitlines():
        match = re.fullmatch(r"## 11\.1 (.*) diffs ([0-9]+) seed diffs [0-9]+", line)
        if match is not None:
            found.append((match[1], int(match[2]), []))
        elif line.startswith("    ") and not line.startswith("    ..."):
            found[-1][2].append(line.strip())
    return found


OPTIONS = {
    "its=off": ["M,its=off"],
    "its=on": ["M,its=on"],
    "cortex-a57": ["-cpu", "cortex-a57"],
    "max,pmu=off": ["-cpu", "max,pmu=off"],
    "max,sve=off": ["-cpu", "max,sve=off"],
    "smp1": ["-smp", "1"],
    "smp4": ["-smp", "4"],
    "smp 4,sockets=2,cores=2": ["-smp", "4,sockets=2,cores=2"],
    "smp 8,sockets=1,clusters=2,cores=2,threads=2": ["-smp", "8,sockets=1,clusters=2,cores=2,threads=2"],
    "smp 2,maxcpus=4": ["-smp", "2,maxcpus=4"],
    "m 1G": ["-m", "1G"],
    "m 4G": ["-m", "4G"],
    "m 512M,slots=2,maxmem=4G": ["-m", "512M,slots=2,maxmem=4G"],
    "acpi=off": ["M,acpi=off"],
    "highmem=off": ["M,highmem=off"],
    "virtualization=on": ["M,virtualization=on"],
    "secure=on": ["M,secure=on"],
    "mte=on": ["M,mte=on"],
    "iommu=smmuv3": ["M,iommu=smmuv3"],
    "gic-version=4": ["M,gic-version=4,virtualization=on"],
    "gic-version=2": ["M,gic-version=2"],
    "gic-version=max": ["M,gic-version=max"],
    "usb=on": ["M,usb=on"],
    "kernel": ["-kernel", "KERNEL"],
    "kernel+initrd+append": ["-kernel", "KERNEL", "-initrd", "INITRD", "-append", "console=ttyAMA0 quiet"],
    "kernel+append empty": ["-kernel", "KERNEL", "-append", ""],
    "bios": ["-bios", "QEMU_EFI.fd"],
    "bios+kernel+initrd+append": ["-bios", "F", "-kernel", "KERNEL", "-initrd", "INITRD", "-append", "console=ttyAMA0 quiet"],
    "nodefaults": ["-nodefaults"],
    "virtio-blk-pci": ["-device", "virtio-blk-pci,drive=d"],
    "numa 2 nodes": [
        "-object", "memory-backend-ram,id=a,size=256M", "-object", "memory-backend-ram,id=b,size=256M",
        "-numa", "node,memdev=a,cpus=0", "-numa", "node,memdev=b,cpus=1",
    ],
    "virtio-iommu-pci": ["-device", "virtio-iommu-pci,addr=1"],
    "pxb-pcie": ["-device", "pxb-pcie,bus_nr=128"],
    "serial 2": ["-serial", "null", "-serial", "null"],
    "serial none": ["-serial", "none"],
    "x-remap/compact-highmem=off": ["M,compact-highmem=off"],
    "highmem-redists=off": ["M,highmem-redists=off"],
    "highmem-ecam=off": ["M,highmem-ecam=off"],
    "highmem-mmio=off": ["M,highmem-mmio=off"],
    "smp 130": ["-cpu", "cortex-a57", "-smp", "130"],
    "virt-6.2": ["-M", "virt-6.2"],
    "virt-8.2": ["-M", "virt-8.2"],
    "virt-9.1": ["-M", "virt-9.1"],
    "msi=its": ["M,msi=its"],
    "msi=gicv2m": ["M,msi=gicv2m"],
    "mem-merge=off": ["M,mem-merge=off"],
}  # fmt: skip
"""Titles of the file and the options that they stand for; ``M`` adds to -M. What is missing is not modelled, or no tree came out."""
NOT_MODELLED = {
    "repeat", "ras=on", "dtb-randomness=off", "dtb-kaslr-seed=off", "default (no gic-version)", "virtio-mmio dev",
    "nvdimm", "cxl=on", "dtb-hex", "memory-backend",
}  # fmt: skip


@pytest.mark.parametrize(("title", "count", "lines"), variations(), ids=[title for title, _, _ in variations()])
def test_each_option_changes_what_it_changed_in_a_real_tree(title, count, lines):
    if title not in OPTIONS:
        assert title in NOT_MODELLED
        return
    before = read_tree_file(make("11.1", *BASE))
    extra = OPTIONS[title]
    arguments = [*BASE, "-M", f"virt{extra[0][1:]}", *extra[1:]] if extra and extra[0].startswith("M,") else [*BASE, *extra]
    differences = diff_trees(before, read_tree_file(make("11.1", *arguments)))
    alone = {one.path for one in differences if one.subject is Subject.NODE}
    shown = set()
    for one in differences:
        sign = {Change.ADDED: "+", Change.REMOVED: "-", Change.CHANGED: "~"}[one.change]
        if one.path == "/secure-chosen":
            continue  # the file counts it among the seeds
        if one.subject is Subject.NODE:
            shown.add((sign, "node", one.path))
        elif one.subject is Subject.PROPERTY and one.path not in alone:
            shown.add((sign, one.path, one.name))
    assert len(shown) == count
    for line in lines:
        sign, first, second = line.split(" ")[:3]
        assert (sign, first, second.rstrip(":")) in shown, line


def test_kernel_decides_where_the_initrd_is():
    small = ("-M", "virt,gic-version=3,dtb-randomness=off", "-cpu", "max", "-m", "128M", "-kernel", "K", "-initrd", "I")
    assert facts_of(parse_device_tree(make("10.0", *small))).initrd == (0x44000000, 0x44000000 + 3_000_000)
    large = BootFiles(kernel=Arm64Header(text_offset=0, image_size=100 * MIB + 1, flags=0), initrd_size=5)
    read = read_stock_arguments(small)
    # The kernel goes 2 MiB further than it asks, because QEMU's own code is at the start of the RAM.
    base = 0x40000000 + 102 * MIB + 4096
    assert stock_machine(read, qemu_version("10.0"), large, HostFacts(), None).initrd == Region(base, 5)
    with pytest.raises(InvalidDocument, match="-initrd"):
        stock_machine(read, qemu_version("10.0"), BootFiles(kernel=KERNEL, initrd_size=200 * MIB), HostFacts(), None)


def test_seeds_are_given_or_off():
    random_tree = ("-M", "virt,gic-version=3", "-cpu", "max")
    with pytest.raises(InvalidDocument, match="dtb-randomness"):
        make("10.0", *random_tree)
    seeds = Seeds(bytes(range(8)), bytes(range(32)))
    chosen = parse_device_tree(make("10.0", *random_tree, seeds=seeds)).root.child("chosen")
    assert (chosen.properties["kaslr-seed"], chosen.properties["rng-seed"]) == (seeds.kaslr, seeds.rng)
    with pytest.raises(InvalidDocument, match="is off"):
        make("10.0", *BASE, seeds=seeds)
    with pytest.raises(InvalidDocument, match="8 and 32 bytes"):
        Seeds(b"", b"")


def test_what_the_host_decides_is_asked_for():
    kvm = ("-accel", "kvm", "-M", "virt,gic-version=3,dtb-randomness=off", "-cpu", "host", "-m", "512M")
    with pytest.raises(InvalidDocument, match="PMU"):
        make("10.0", *kvm)
    with pytest.raises(InvalidDocument, match="caches"):
        make("11.1", *kvm, host=HostFacts(pmu=True))
    with pytest.raises(InvalidDocument, match="address bits"):
        make("10.0", *kvm, "-m", "512M,slots=1,maxmem=900G", host=HostFacts(pmu=True))
    with pytest.raises(InvalidDocument, match="gic-version"):
        make("10.0", *kvm, "-M", "virt,gic-version=host", host=HostFacts(pmu=True))
    tree = parse_device_tree(make("11.1", *kvm, host=HostFacts(pmu=False, caches=CpuCaches(64, 1, 2, 64, 3, 4, 5))))
    cpu = tree.root.child("cpus").child("cpu@0")
    assert cpu.properties["compatible"] == b"arm,arm-v8\0"
    assert cpu.properties["i-cache-sets"] == (4).to_bytes(4, "big")
    assert tree.root.child("pmu") is None


def test_a_realm_has_smc_and_a_log_area():
    """Read in the patches that add realms to QEMU; no such QEMU was run."""
    realm = ("-object", "rme-guest,id=r,measurement-log=on", "-kernel", "K", "-initrd", "I")
    tree = parse_device_tree(make("10.0", *BASE, *realm))
    assert tree.root.child("psci").properties["method"] == b"smc\0"
    assert facts_of(tree).log_area == (0x48500000, 0x10000)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ram_size": 5}, "-m: from"),
        ({"ram_max": 256 * MIB}, "maxmem"),
        ({"machine_type": (11, 2)}, "no such type"),
        ({"machine_type": (6, 1)}, "no such type"),
        ({"gic": 2}, "gic-version=2"),
        ({"gic": 4}, "gic-version=4"),
        ({"transports": 33}, "virtio-mmio-transports"),
        ({"first_phandle": 0}, "phandle-start"),
        ({"bootargs": "a\0b"}, "-append"),
        ({"initrd": Region(0, 1)}, "-initrd"),
        ({"secure": True, "seeds": Seeds(bytes(8), bytes(32))}, "secure=on"),
        ({"numa": (NumaNode(512 * MIB, frozenset({0})),)}, "-numa"),
        ({"topology": Topology(200, cores=200), "cpu": VERSIONS[11, 1].cpus["host"]}, "caches"),
        ({"ram_size": 16 << 40, "cpu": VERSIONS[11, 1].cpus["cortex-a57"]}, "44 bits"),
    ],
)
def test_machines_that_cannot_be_name_the_option(changes, message):
    with pytest.raises(InvalidDocument, match=re.escape(message)) as caught:
        machine(**changes)
    assert caught.value.finding_id == "document.vm"


def test_topologies_that_cannot_be():
    for values in ((0,), (513, 513), (3, 2), (2, 2, 2, 2, 65)):
        with pytest.raises(InvalidDocument, match="-smp"):
            Topology(*values)


def test_versions_without_a_tree_are_refused():
    for text in ("10.2", "9.2.0", "7", "", "a.b", "10.0.1.2", "٧.2"):
        with pytest.raises(InvalidDocument, match=r"7\.2, 10\.0, 11\.1"):
            qemu_version(text)
    assert qemu_version("10.0.13") is qemu_version("10.0")


def test_attack_a_tree_that_outgrows_its_buffer_is_refused_not_cut():
    with pytest.raises(InvalidDocument, match="-append"):
        machine(bootargs="x" * 20_000)


@given(
    version=st.sampled_from(sorted(VERSIONS)),
    cpus=st.integers(1, 140),
    ram=st.integers(128, 1 << 16).map(lambda size: size * MIB),
    hotplug=st.sampled_from([0, 0, GIB, 700 * GIB]),
    switches=st.fixed_dictionaries(
        {name: st.booleans() for name in ("pmu", "virtualization", "secure", "smmu", "bypass_iommu", "acpi", "realm")}
    ),
    boot=st.sampled_from(["kernel", "firmware", "none"]),
    bootargs=st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=300),
    serials=st.integers(1, 3),
)
@settings(max_examples=40, deadline=None)
def test_what_is_made_is_read_by_the_hardened_reader(version, cpus, ram, hotplug, switches, boot, bootargs, serials):
    made = machine(
        ".".join(map(str, version)), topology=Topology(cpus, cores=cpus), ram_size=ram, ram_max=ram + hotplug, boot=boot, bootargs=bootargs,
        serials=serials, **switches,
    )  # fmt: skip
    blob = stock_qemu_tree(made)
    assert blob == stock_qemu_tree(made)
    facts = facts_of(parse_device_tree(blob), len(blob))
    assert (facts.cpus, facts.size, facts.bootargs) == (cpus, MIB, bootargs or None)
    assert sum(size for _, size in facts.memory) == ram


@pytest.mark.skipif(shutil.which("dtc") is None, reason="no dtc is installed (Debian: device-tree-compiler)")
@pytest.mark.parametrize("version", ["7.2", "10.0", "11.1"])
def test_dtc_reads_it(version, tmp_path):
    path = tmp_path / "tree.dtb"
    path.write_bytes(make(version, *BASE, "-M", "virt,iommu=smmuv3,secure=on", "-smp", "20"))
    done = subprocess.run(["dtc", "-I", "dtb", "-O", "dtb", str(path)], capture_output=True, check=True)
    assert parse_device_tree(done.stdout).root == parse_device_tree(path.read_bytes()).root
