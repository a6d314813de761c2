"""Patching a dumped device tree: what changes, what stays byte for byte, what is refused."""

import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbs_rim.errors import InvalidDocument, MalformedEvidence
from kbs_rim.measurement.device_tree import facts_of, parse_device_tree
from kbs_rim.measurement.image import Arm64Header
from kbs_rim.measurement.vmm import HostParameters, VmRequest, plan_layout
from kbs_rim.measurement.vmm.definition import CpuTopology
from kbs_rim.measurement.vmm.shipped_profiles import CLOUD_HYPERVISOR, KVMTOOL, QEMU
from kbs_rim.measurement.vmm.tree_template import patch_template

TREES = Path(__file__).parent.parent / "vectors"
MIB = 1 << 20
KERNEL = Arm64Header(text_offset=0, image_size=48 * MIB, flags=0xA)
QEMU_DUMP = TREES / "images" / "qemu-dtb" / "qemu-10.0-smp2.dtb"


def request(**changes) -> VmRequest:
    given = {"cpus": 2, "ram_size": 512 * MIB, "boot": "kernel", "kernel_size": 4096, "kernel_header": KERNEL, "host": HostParameters()}
    return VmRequest(**given | changes)


def full(**changes) -> VmRequest:
    """A VM with every optional part, which is what a template should come from."""
    return request(measurement_log=True, pmu=True, initrd_size=100, bootargs="console=ttyAMA0", **changes)


def template_of(profile) -> bytes:
    return plan_layout(profile, full(cpus=4)).device_tree


@pytest.mark.parametrize("profile", [QEMU, KVMTOOL], ids=lambda profile: profile.vmm)
@pytest.mark.parametrize("cpus", [1, 2, 7, 124])
def test_the_patched_tree_says_what_the_layout_does(profile, cpus):
    wanted = replace(full(), cpus=cpus)
    layout = plan_layout(profile, wanted, patch_template(profile, wanted, template_of(profile)))
    facts = facts_of(parse_device_tree(layout.device_tree), len(layout.device_tree))
    initrd = next(place for place in layout.placements if place.role == "initrd")
    assert (facts.cpus, facts.memory) == (cpus, (tuple(layout.ram),))
    assert facts.initrd == (initrd.base, initrd.base + initrd.size)
    assert facts.log_area == tuple(layout.log_area)
    assert facts.bootargs.endswith("console=ttyAMA0")


@pytest.mark.parametrize("profile", [QEMU, KVMTOOL], ids=lambda profile: profile.vmm)
def test_what_the_vm_lacks_is_dropped(profile):
    wanted = request(its=False)
    root = parse_device_tree(patch_template(profile, wanted, template_of(profile)).ljust(65536, b"\0")).root
    names = {node.name for node in root.walk()}
    assert not names & {"pmu", "reserved-memory", "msic", "its@8080000"}
    assert "linux,initrd-start" not in root.child("chosen").properties
    assert not any("msi-map" in node.properties for node in root.walk())


def test_the_strings_stay_and_new_names_follow():
    template = plan_layout(QEMU, request(measurement_log=True, pmu=True)).device_tree
    strings = template[struct.unpack_from(">I", template, 12)[0] :]
    patched = patch_template(QEMU, full(), template)
    offset, size = struct.unpack_from(">I", patched, 12)[0], struct.unpack_from(">I", patched, 32)[0]
    assert patched[offset : offset + size].startswith(strings)
    assert patched[offset : offset + size].removeprefix(strings) == b"cpu\0"
    assert "bootargs" not in parse_device_tree(patched).root.child("chosen").properties


def test_shared_suffixes_survive():
    """libfdt lets ``reg`` be the end of another name; the patched tree keeps pointing there."""
    template = template_of(QEMU)
    strings_at = struct.unpack_from(">I", template, 12)[0]
    strings = template[strings_at:]
    start = strings.index(b"\0reg\0") + 1
    shared = strings[:start] + b"#reg\0" + strings[start + 4 :]
    moved = template[:strings_at] + shared
    header = bytearray(moved)
    struct.pack_into(">I", header, 4, len(moved))
    struct.pack_into(">I", header, 32, len(shared))
    offsets = {name: strings.index(f"\0{name}\0".encode()) + 1 for name in ("reg",)}
    fixed = _move_names(bytes(header), strings_at, {offset: offset + 1 for offset in offsets.values()}, after=start, shift=1)
    assert parse_device_tree(fixed).root == parse_device_tree(template).root
    patched = patch_template(QEMU, full(), fixed)
    assert patched[struct.unpack_from(">I", patched, 12)[0] :].startswith(shared)
    assert parse_device_tree(patched).root == parse_device_tree(patch_template(QEMU, full(), template)).root


def _move_names(blob: bytes, end: int, exact: dict[int, int], *, after: int, shift: int) -> bytes:
    """Rewrite the name offsets of all properties."""
    data, position = bytearray(blob), struct.unpack_from(">I", blob, 8)[0]
    while position < end:
        token = struct.unpack_from(">I", data, position)[0]
        position += 4
        if token == 1:
            position += data.index(b"\0", position) - position + 4 & ~3
        elif token == 3:
            length, name = struct.unpack_from(">II", data, position)
            struct.pack_into(">I", data, position + 4, exact.get(name, name + shift if name > after else name))
            position += 8 + (length + 3 & ~3)
        elif token == 9:
            break
    return bytes(data)


def test_room_in_the_template_is_kept():
    template = bytearray(template_of(QEMU).ljust(1 << 20, b"\0"))
    struct.pack_into(">I", template, 4, 1 << 20)
    patched = patch_template(QEMU, full(), bytes(template))
    assert len(patched) == 1 << 20
    assert struct.unpack_from(">I", patched, 4)[0] == 1 << 20
    assert parse_device_tree(patched).root == parse_device_tree(patch_template(QEMU, full(), template_of(QEMU))).root


def test_a_tree_that_outgrows_the_room_is_refused():
    template = bytearray(template_of(QEMU) + bytes(8))
    struct.pack_into(">I", template, 4, len(template))
    with pytest.raises(InvalidDocument, match="has room for"):
        patch_template(QEMU, replace(full(), cpus=200), bytes(template))


def test_qemus_cpu_map_follows_the_topology():
    wanted = replace(full(), cpus=8, topology=CpuTopology(sockets=1, clusters=2, cores=2, threads=2))
    cpus = parse_device_tree(patch_template(QEMU, wanted, template_of(QEMU))).root.child("cpus")
    leaves = [node.properties["cpu"] for node in cpus.child("cpu-map").walk() if "cpu" in node.properties]
    phandles = [node.properties["phandle"] for node in cpus.children if node.name.startswith("cpu@")]
    assert leaves == phandles == [(0x8008 - number).to_bytes(4, "big") for number in range(8)]
    assert cpus.child("cpu-map").child("socket0").child("cluster1").child("core1").child("thread1") is not None


def test_a_qemu_tree_with_gpio_keys_keeps_its_phandles_apart():
    """The trees that QEMU dumps have a GPIO controller behind the ITS; all phandles move with the number of CPUs."""
    data = QEMU_DUMP.read_bytes()
    data = data[:4] + min(len(data), int.from_bytes(data[4:8], "big")).to_bytes(4, "big") + data[8:]
    for cpus in (1, 5):
        root = parse_device_tree(patch_template(QEMU, replace(full(), cpus=cpus), data)).root
        nodes = {node.name: node for node in root.walk()}
        gic, gpio = (nodes[name].properties["phandle"] for name in ("intc@8000000", "pl061@9030000"))
        assert root.properties["interrupt-parent"] == gic == (0x8000 + cpus + 1).to_bytes(4, "big")
        assert nodes["poweroff"].properties["gpios"].startswith(gpio)
        phandles = [node.properties["phandle"] for node in root.walk() if "phandle" in node.properties]
        assert len(set(phandles)) == len(phandles)


def test_templates_that_cannot_serve_are_refused():
    template = template_of(QEMU)
    with pytest.raises(MalformedEvidence):
        patch_template(QEMU, full(), b"no tree at all" * 10)
    with pytest.raises(InvalidDocument, match="no template"):
        patch_template(CLOUD_HYPERVISOR, request(), template)
    nop = bytearray(template)
    end = struct.unpack_from(">I", template, 12)[0]
    nop[end - 4 : end] = (4).to_bytes(4, "big") + (9).to_bytes(4, "big")
    for field, change in ((4, 4), (12, 4), (36, 4)):
        struct.pack_into(">I", nop, field, struct.unpack_from(">I", nop, field)[0] + change)
    with pytest.raises(InvalidDocument, match="NOP"):
        patch_template(QEMU, full(), bytes(nop))
    gap = bytearray(template[:end] + bytes(4) + template[end:])
    for field in (4, 12):
        struct.pack_into(">I", gap, field, struct.unpack_from(">I", gap, field)[0] + 4)
    with pytest.raises(InvalidDocument, match="follow each other"):
        patch_template(QEMU, full(), bytes(gap))


@given(st.sampled_from([QEMU, KVMTOOL]), st.integers(1, 12), st.booleans(), st.booleans(), st.booleans(), st.none() | st.integers(1, 9999))
def test_patching_twice_is_patching_once(profile, cpus, log, pmu, its, initrd):
    wanted = request(cpus=cpus, measurement_log=log, pmu=pmu, its=its, initrd_size=initrd, bootargs="quiet")
    once = patch_template(profile, wanted, template_of(profile))
    assert patch_template(profile, wanted, once) == once


def test_dtc_reads_a_patched_tree(tmp_path):
    try:
        subprocess.run(["dtc", "--version"], capture_output=True, check=True)
    except FileNotFoundError:
        pytest.skip("dtc is not installed")
    tree = tmp_path / "tree.dtb"
    tree.write_bytes(patch_template(QEMU, replace(full(), cpus=3), template_of(QEMU)))
    source = subprocess.run(["dtc", "-q", "-I", "dtb", "-O", "dts", str(tree)], capture_output=True, text=True, check=True).stdout
    assert source.count("enable-method") == 3
