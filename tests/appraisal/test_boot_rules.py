"""Boot rules: a good plan passes, and each lie that a hostile host could log truthfully has its finding."""

import struct
from dataclasses import replace

import pytest

from kbs_rim.appraisal.boot_rules import judge_boot_plan
from kbs_rim.appraisal.findings import Severity
from kbs_rim.appraisal.registered_image import ImageState, RegisteredImage
from kbs_rim.appraisal.workload import Role, parse_workload
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.measurement.boot_plan import BootPlan, CreateRecord, LoadedImage, LogArea, RecRecord, RipasRecord
from kbs_rim.measurement.device_tree import Node
from kbs_rim.measurement.device_tree_writer import cells64, text, write_device_tree
from kbs_rim.measurement.dialect import Dialect, Rounding
from kbs_rim.measurement.image import measure_image
from kbs_rim.measurement.rmm import RealmCreate, RecCreate, RmmVersion

RAM, SIZE = 0x40000000, 0x10000000
KERNEL_AT, INITRD_AT, TREE_AT, LOG_AT = RAM, RAM + 0x8000000, RAM + 0x8400000, RAM + 0x8500000
INITRD = bytes(range(256)) * 40
INITRD_RANGE = (INITRD_AT, INITRD_AT + len(INITRD))
ALGORITHM = HashAlgorithm.SHA256


def kernel_bytes(text_offset=0, image_size=0x200000, body=b"kernel"):
    header = struct.pack("<IIQQQQQQII", 0, 0, text_offset, image_size, 0xA, 0, 0, 0, 0x644D5241, 0)
    return header + body.ljust(9000, b"\0")


def tree_bytes(memory=(RAM, SIZE), initrd=INITRD_RANGE, log=(LOG_AT, 0x10000)):
    chosen = {"linux,initrd-start": cells64(initrd[0]), "linux,initrd-end": cells64(initrd[1])} if initrd else {}
    children = [
        Node("chosen", chosen, ()),
        Node(f"memory@{memory[0]:x}", {"device_type": text("memory"), "reg": cells64(*memory)}, ()),
    ]
    two = {"#address-cells": struct.pack(">I", 2), "#size-cells": struct.pack(">I", 2)}
    if log:
        area = Node(f"event-log@{log[0]:x}", {"compatible": text("cc-event-log"), "reg": cells64(*log)}, ())
        children.append(Node("reserved-memory", {**two, "ranges": b""}, (area,)))
    return write_device_tree(Node("", two, tuple(children)))


class Machine:
    """A realm that passes; tests change one thing."""

    def __init__(self, kernel=None, tree=None):
        self.files = {"KERNEL": kernel or kernel_bytes(), "INITRD": INITRD, "DTB": tree or tree_bytes()}
        self.roles = {"KERNEL": Role.KERNEL, "INITRD": Role.INITRD, "DTB": Role.DEVICE_TREE}
        self.bases = {"KERNEL": KERNEL_AT, "INITRD": INITRD_AT, "DTB": TREE_AT}
        self.states = dict.fromkeys(self.files, ImageState.ACTIVE)
        self.params = RealmCreate(ALGORITHM, flags=0, s2sz=41, num_bps=5, num_wps=3)
        self.ripas = [(RAM, SIZE)]
        self.log = (LOG_AT, 0x10000)
        self.recs = [RecCreate(1, KERNEL_AT, (TREE_AT, 0, 0, 0, 0, 0, 0, 0))]
        self.extra = []

    def images(self):
        return {name: measure_image(data) for name, data in self.files.items()}

    def workload(self, **changes):
        images = self.images()
        document = {
            "name": "w",
            "images": [{"role": self.roles[name].value, "images": [images[name].image_id]} for name in self.files if name in self.roles],
            "memory": {"base": RAM, "size": {"min": SIZE, "max": SIZE}},
        }
        return parse_workload({**document, **changes})

    def plan(self):
        measured = self.images()
        steps = [RipasRecord(3, base, size) for base, size in self.ripas]
        steps += [
            LoadedImage(number, name, self.bases[name], image.size, image.digests[ALGORITHM], ALGORITHM)
            for number, (name, image) in enumerate(measured.items(), start=10)
        ]
        steps += [RecRecord(20 + number, rec) for number, rec in enumerate(self.recs)]
        if self.log:
            steps.append(LogArea(30, *self.log))
        return BootPlan(ALGORITHM, None, CreateRecord(2, self.params), tuple(steps))

    def registered(self):
        return {
            number: RegisteredImage(image.image_id, name, (self.roles.get(name, Role.INITRD),), self.states[name], image)
            for number, (name, image) in enumerate(self.images().items(), start=10)
        }

    def judge(self, workload=None, dialect=None):
        return judge_boot_plan(self.plan(), self.registered(), workload or self.workload(), dialect or Dialect(RmmVersion.V1_0))


def ids(findings, severity=Severity.ERROR):
    return {finding.id for finding in findings if finding.severity is severity}


def test_a_good_machine_passes_without_a_word():
    assert Machine().judge() == ()


def test_attack_pc_off_the_entry_point():
    machine = Machine()
    machine.recs = [replace(machine.recs[0], pc=KERNEL_AT + 64)]
    (finding,) = machine.judge()
    assert (finding.id, finding.expected, finding.seen) == ("boot.entry-point", hex(KERNEL_AT), hex(KERNEL_AT + 64))


def test_attack_x0_points_into_the_log_area():
    machine = Machine()
    machine.recs = [replace(machine.recs[0], gprs=(LOG_AT + 8, 0, 0, 0, 0, 0, 0, 0))]
    assert ids(machine.judge()) == {"boot.x0", "boot.log-area"}


def test_attack_pc_points_into_the_log_area():
    machine = Machine()
    machine.recs = [replace(machine.recs[0], pc=LOG_AT)]
    assert ids(machine.judge()) == {"boot.entry-point", "boot.log-area"}


def test_attack_second_runnable_rec():
    machine = Machine()
    machine.recs.append(RecCreate(1, INITRD_AT, (0,) * 8))
    assert {"boot.rec-count", "boot.entry-point"} <= ids(machine.judge())


def test_attack_no_runnable_rec():
    machine = Machine()
    machine.recs = [replace(machine.recs[0], flags=0)]
    assert ids(machine.judge()) == {"boot.rec-count"}


def test_secondary_recs_that_are_not_runnable_are_fine():
    machine = Machine()
    machine.recs.append(RecCreate(0, 0, (0,) * 8))
    assert machine.judge() == ()


def test_attack_unknown_rec_flags():
    machine = Machine()
    machine.recs = [replace(machine.recs[0], flags=3)]
    assert ids(machine.judge()) == {"boot.rec-flags"}


def test_attack_other_registers_not_zero():
    machine = Machine()
    machine.recs = [replace(machine.recs[0], gprs=(TREE_AT, 0, 7, 0, 0, 0, 0, 0))]
    (finding,) = machine.judge()
    assert (finding.id, finding.seen) == ("boot.gprs", "x2=0x7")


def test_attack_two_images_overlapping():
    machine = Machine(tree=tree_bytes(initrd=(KERNEL_AT + 4096, KERNEL_AT + 4096 + len(INITRD))))
    machine.bases["INITRD"] = KERNEL_AT + 4096
    assert {"boot.overlap", "boot.kernel-header"} <= ids(machine.judge())


def test_attack_images_share_a_page_only_after_rounding():
    machine = Machine(tree=tree_bytes(initrd=(INITRD_AT, INITRD_AT + len(INITRD))))
    machine.bases["DTB"] = INITRD_AT + 0x4000
    machine.recs = [replace(machine.recs[0], gprs=(INITRD_AT + 0x4000, 0, 0, 0, 0, 0, 0, 0))]
    assert ids(machine.judge()) == set()
    assert ids(machine.judge(dialect=Dialect(RmmVersion.V1_0, Rounding.PAGE_64K))) == {"boot.overlap"}


def test_attack_log_area_over_the_initrd():
    machine = Machine(tree=tree_bytes(log=(INITRD_AT, 0x10000)))
    machine.log = (INITRD_AT, 0x10000)
    assert ids(machine.judge()) == {"boot.overlap"}


def test_attack_log_area_outside_ram():
    machine = Machine(tree=tree_bytes(log=(RAM + SIZE, 0x10000)))
    machine.log = (RAM + SIZE, 0x10000)
    assert ids(machine.judge()) == {"boot.outside-ram"}


def test_attack_log_area_that_the_tree_does_not_reserve():
    for tree in (tree_bytes(log=None), tree_bytes(log=(LOG_AT, 0x8000))):
        assert ids(Machine(tree=tree).judge()) == {"boot.log-reserved"}


def test_attack_image_outside_ram():
    machine = Machine(tree=tree_bytes(initrd=(RAM + SIZE, RAM + SIZE + len(INITRD))))
    machine.bases["INITRD"] = RAM + SIZE
    assert ids(machine.judge()) == {"boot.outside-ram"}


def test_attack_trusted_images_of_two_workloads_mixed():
    ours, other = Machine(), Machine()
    other.files["INITRD"] = b"the initrd of another tenant".ljust(len(INITRD), b"\0")
    findings = other.judge(workload=ours.workload())
    assert {"boot.role-unexpected", "boot.role-missing"} <= ids(findings)
    unexpected = next(finding for finding in findings if finding.id == "boot.role-unexpected")
    assert ours.images()["INITRD"].image_id in (unexpected.expected or "")


def test_attack_image_in_a_role_it_was_not_registered_for():
    machine = Machine()
    workload = machine.workload()
    machine.roles["INITRD"] = Role.FIRMWARE
    assert {"boot.role-unexpected", "boot.role-missing"} <= ids(machine.judge(workload=workload))


def test_attack_extra_image():
    machine = Machine()
    machine.files["EXTRA"] = b"extra" * 100
    machine.bases["EXTRA"] = RAM + 0x9000000
    machine.states["EXTRA"] = ImageState.ACTIVE
    assert ids(machine.judge()) == {"boot.role-unexpected"}


def test_attack_second_image_of_one_role():
    machine = Machine()
    machine.files["SECOND"] = b"second" * 100
    machine.bases["SECOND"] = RAM + 0x9000000
    machine.states["SECOND"] = ImageState.ACTIVE
    images = machine.images()
    rules = [{"role": "kernel", "images": [images["KERNEL"].image_id]}, {"role": "device-tree", "images": [images["DTB"].image_id]}]
    rules.append({"role": "initrd", "images": [images["INITRD"].image_id, images["SECOND"].image_id]})
    assert "boot.role-repeated" in ids(machine.judge(workload=machine.workload(images=rules)))


def test_a_deprecated_image_warns():
    machine = Machine()
    machine.states["KERNEL"] = ImageState.DEPRECATED
    findings = machine.judge()
    assert ids(findings) == set()
    assert ids(findings, Severity.WARNING) == {"boot.image-deprecated"}


def test_attack_kernel_at_the_wrong_alignment():
    machine = Machine()
    machine.bases["KERNEL"] = KERNEL_AT + 0x1000
    machine.recs = [replace(machine.recs[0], pc=KERNEL_AT + 0x1000)]
    assert ids(machine.judge()) == {"boot.alignment"}


def test_a_kernel_with_text_offset_lies_above_its_boundary():
    machine = Machine(kernel=kernel_bytes(text_offset=0x80000))
    machine.bases["KERNEL"] = KERNEL_AT + 0x80000
    machine.recs = [replace(machine.recs[0], pc=KERNEL_AT + 0x80000)]
    assert machine.judge() == ()


def test_attack_kernel_memory_reaches_into_the_initrd():
    machine = Machine(kernel=kernel_bytes(image_size=INITRD_AT - RAM + 1))
    assert ids(machine.judge()) == {"boot.kernel-header"}


def test_attack_a_kernel_that_is_no_kernel():
    machine = Machine(kernel=b"\x7fELF" + bytes(5000))
    assert ids(machine.judge()) == {"boot.kernel-header"}


@pytest.mark.parametrize(("flags", "rule"), [(1, "lpa2"), (2, "sve"), (4, "pmu"), (8, "device_assignment")])
def test_attack_feature_that_the_workload_does_not_allow(flags, rule):
    machine = Machine()
    machine.params = replace(machine.params, flags=flags)
    assert ids(machine.judge()) == {"boot.flags"}
    assert machine.judge(workload=machine.workload(parameters={rule: True})) == ()


def test_attack_unknown_feature_flag():
    machine = Machine()
    machine.params = replace(machine.params, flags=1 << 40)
    assert ids(machine.judge()) == {"boot.flags"}


@pytest.mark.parametrize(
    ("change", "parameter"),
    [
        ({"s2sz": 49}, "ipa_bits"),
        ({"num_bps": 64}, "breakpoints"),
        ({"num_wps": 64}, "watchpoints"),
        ({"flags": 2, "sve_vl": 3}, "sve_vector_bits"),
        ({"flags": 4, "pmu_num_ctrs": 9}, "pmu_counters"),
    ],
)
def test_attack_parameter_out_of_bounds(change, parameter):
    machine = Machine()
    machine.params = replace(machine.params, **change)
    rules = {"sve": True, "pmu": True, "sve_vector_bits": {"min": 128, "max": 256}, "pmu_counters": {"min": 0, "max": 8}}
    (finding,) = machine.judge(workload=machine.workload(parameters=rules))
    assert (finding.id, finding.where["parameter"]) == ("boot.parameters", parameter)


def test_attack_memory_of_another_size():
    machine = Machine(tree=tree_bytes(memory=(RAM, SIZE * 2)))
    machine.ripas = [(RAM, SIZE * 2)]
    assert ids(machine.judge()) == {"boot.ram"}


def test_attack_two_memory_ranges():
    machine = Machine()
    machine.ripas = [(RAM, SIZE), (RAM + SIZE, SIZE)]
    assert "boot.ram" in ids(machine.judge())


def test_attack_tree_with_other_memory():
    assert ids(Machine(tree=tree_bytes(memory=(RAM, SIZE // 2))).judge()) == {"tree.memory"}


def test_ram_comes_from_the_measured_tree_where_nothing_is_logged():
    machine = Machine()
    machine.ripas = []
    assert machine.judge() == ()
    machine = Machine(tree=tree_bytes(memory=(RAM, SIZE * 2)))
    machine.ripas = []
    assert ids(machine.judge()) == {"boot.ram"}


def test_attack_initrd_range_pointing_at_unmeasured_memory():
    machine = Machine(tree=tree_bytes(initrd=(RAM + 0x9000000, RAM + 0x9000000 + len(INITRD))))
    assert ids(machine.judge()) == {"tree.initrd"}


def test_attack_initrd_missing_but_named_by_the_tree():
    machine = Machine()
    workload = machine.workload()
    del machine.files["INITRD"]
    assert {"boot.role-missing", "tree.initrd"} == ids(machine.judge(workload=workload))


def test_attack_no_device_tree():
    machine = Machine()
    workload = machine.workload()
    del machine.files["DTB"]
    machine.recs = [replace(machine.recs[0], gprs=(0,) * 8)]
    assert {"tree.missing", "boot.role-missing", "boot.x0"} == ids(machine.judge(workload=workload))


def judge_with_an_unknown_tree(machine):
    """The log names a tree that is neither registered, nor sent, nor made anew."""
    known = {event: image for event, image in machine.registered().items() if image.name != "DTB"}
    return judge_boot_plan(machine.plan(), known, machine.workload(), Dialect(RmmVersion.V1_0))


def test_a_tree_that_nobody_knows_is_not_called_missing_from_memory():
    found = {finding.id: finding for finding in judge_with_an_unknown_tree(Machine())}
    assert set(found) == {"tree.missing", "boot.role-missing"}
    missing = found["tree.missing"]
    assert missing.severity is Severity.ERROR
    assert "not known" in missing.message
    assert missing.where["address"] == hex(TREE_AT)


def test_attack_x0_beside_a_tree_that_nobody_knows():
    machine = Machine()
    machine.recs = [replace(machine.recs[0], gprs=(INITRD_AT, 0, 0, 0, 0, 0, 0, 0))]
    found = {finding.id: finding for finding in judge_with_an_unknown_tree(machine)}
    assert set(found) == {"tree.missing", "boot.role-missing", "boot.x0"}
    assert (found["boot.x0"].expected, found["boot.x0"].seen) == (hex(TREE_AT), hex(INITRD_AT))


def test_attack_x0_at_an_unknown_tree_beside_the_trusted_one():
    machine = Machine()
    workload = machine.workload()
    machine.files["dtb"], machine.bases["dtb"], machine.states["dtb"] = bytes(4096), INITRD_AT - 4096, ImageState.ACTIVE
    machine.recs = [replace(machine.recs[0], gprs=(INITRD_AT - 4096, 0, 0, 0, 0, 0, 0, 0))]
    known = {event: image for event, image in machine.registered().items() if image.name != "dtb"}
    found = {finding.id: finding for finding in judge_boot_plan(machine.plan(), known, workload, Dialect(RmmVersion.V1_0))}
    assert found["boot.x0"].expected == hex(TREE_AT)


def test_bounds_of_one_value_are_shown_as_one():
    machine = Machine()
    workload = machine.workload(parameters={"breakpoints": {"min": 16, "max": 16}})
    found = {finding.id: finding for finding in machine.judge(workload=workload)}
    assert found["boot.parameters"].expected == "16"


def test_attack_vmm_of_another_name():
    machine = Machine()
    assert ids(machine.judge(workload=machine.workload(vmm=["QEMU"]))) == {"boot.vmm"}


def test_attack_hash_algorithm_that_is_not_allowed():
    machine = Machine()
    assert ids(machine.judge(workload=machine.workload(rmm={"hash_algorithms": ["sha-512"]}))) == {"boot.hash-algorithm"}


def test_attack_address_outside_the_windows_of_its_role():
    machine = Machine()
    rules = [rule.model_dump(mode="json") for rule in machine.workload().images]
    rules[1]["addresses"] = [{"min": hex(INITRD_AT + 4096), "max": hex(INITRD_AT + 8192)}]
    assert ids(machine.judge(workload=machine.workload(images=rules))) == {"boot.address"}


def test_every_rule_reports_on_its_own():
    machine = Machine(tree=tree_bytes(log=None))
    machine.recs = [RecCreate(3, KERNEL_AT + 4, (LOG_AT, 1, 0, 0, 0, 0, 0, 0))]
    machine.params = replace(machine.params, flags=4)
    found = ids(machine.judge())
    assert {"boot.rec-flags", "boot.entry-point", "boot.x0", "boot.gprs", "boot.log-area", "boot.log-reserved", "boot.flags"} <= found
