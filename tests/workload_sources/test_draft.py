"""Workloads drafted from definitions, judged by the real appraisal: the realm of the definition passes, any other does not."""

import json
import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stage import FIRMWARE, INITRD, KERNEL, QEMU_KERNEL, Stage, Vm, error_ids, kernel_file

from kbs_rim.appraisal.appraise import Candidate, Verdict
from kbs_rim.appraisal.registered_image import ImageSet, ImageState, RegisteredImage
from kbs_rim.appraisal.workload import Role, parse_workload
from kbs_rim.errors import InvalidDocument
from kbs_rim.evidence.cca_token import parse_cca_token
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.limits import DEFAULT_LIMITS, MIB
from kbs_rim.measurement.image import measure_image
from kbs_rim.measurement.rmm import RmmVersion
from kbs_rim.measurement.vmm.arguments import parse_arguments
from kbs_rim.measurement.vmm.cloud_hypervisor_json import cloud_hypervisor_arguments
from kbs_rim.measurement.vmm.host_capabilities import HostCapabilities
from kbs_rim.measurement.vmm.libvirt_domain import read_libvirt_domain
from kbs_rim.measurement.vmm.profile import HostParameters
from kbs_rim.measurement.vmm.shipped_profiles import DEFAULTS
from kbs_rim.realm.simulator import SimulatedRealm, TreeDelivery
from kbs_rim.realm.vm_builder import VmDefinition, VmFiles
from kbs_rim.workload_sources.draft import Draft, draft_workload, usable_versions
from kbs_rim.workload_sources.review import review_of
from kbs_rim.workload_sources.subject import DraftSubject, HostChoice

LINES = {
    "qemu": "-M virt,gic-version=3,confidential-guest-support=rme0 "
    "-object rme-guest,id=rme0,measurement-algorithm=sha256,measurement-log=on "
    "-cpu host -enable-kvm -smp 2 -m 256M -kernel k -initrd i -append console=ttyAMA0",
    "kvmtool": "run --realm -c 2 -m 256M -k k -i i -p console=ttyAMA0 --measurement-algo sha256 --measurement-log",
}
FILES = {"kernel": measure_image(KERNEL), "initrd": measure_image(INITRD), "firmware": measure_image(FIRMWARE)}
OTHER_INITRD = b"another initrd" * 900
NEW_KERNEL = kernel_file(b"another kernel")
SMALL = HostCapabilities(ipa_bits=48, num_bps=2, num_wps=2, pmu_num_ctrs=0, sve_vl=0, pmu=False)
LARGE = HostCapabilities(ipa_bits=48, num_bps=6, num_wps=4, pmu_num_ctrs=8, sve_vl=256, pmu=True)
SMALL_HOST, LARGE_HOST = HostChoice("small", SMALL), HostChoice("large", LARGE)


def subject_of(vmm: str, line: str | None = None, **changes) -> DraftSubject:
    definition = parse_arguments(vmm, shlex.split(line or LINES[vmm]))
    images = {role: FILES[role] for role in definition.images}
    subject = DraftSubject(name="web", definition=definition, profile=DEFAULTS[vmm], images=images, hosts=(SMALL_HOST,))
    return replace(subject, **changes)


@dataclass(frozen=True)
class Ordered(Vm):
    """A VM whose owner ordered something else."""

    order: VmDefinition = field(kw_only=True)

    @property
    def definition(self) -> VmDefinition:
        return self.order


def realm_of(vmm: str, *, files: VmFiles | None = None, **changes) -> Vm:
    """The realm that a host builds of the same definition, by the simulator's own builder."""
    host = HostParameters(hash_algorithm=HashAlgorithm.SHA256, ipa_limit=48)
    order = VmDefinition(vmm=vmm, boot="kernel", cpus=2, memory=256 * MIB, append="console=ttyAMA0", host=host)
    return Ordered(vmm, "kernel", files or VmFiles(kernel=KERNEL, initrd=INITRD), order=replace(order, **changes))


@dataclass
class DraftedStage(Stage):
    """A broker at which everything is registered that the draft asks for, and images that it does not name."""

    draft: Draft = field(kw_only=True)

    def images(self) -> ImageSet:
        known = [*FILES.items(), ("initrd", measure_image(OTHER_INITRD)), ("kernel", measure_image(NEW_KERNEL))]
        known += [("device-tree", tree) for tree in self.draft.trees]
        return ImageSet(RegisteredImage(image.image_id, role, (Role(role),), ImageState.ACTIVE, image) for role, image in known)


def judged(draft: Draft, vm: Vm) -> Verdict:
    """Judge a realm by the drafted workload; a tree that must be sent is sent."""
    stage = DraftedStage(vm=vm, draft=draft)
    way = TreeDelivery.ENVELOPE if draft.workload.device_tree.judges else TreeDelivery.NONE
    return stage.judge(candidates=(Candidate(draft.workload, 1),), send_tree=way)


@pytest.mark.parametrize("mode", ["rules", "registered"])
@pytest.mark.parametrize("vmm", ["qemu", "kvmtool"])
def test_the_realm_of_the_definition_passes(vmm, mode):
    verdict = judged(draft_workload(subject_of(vmm, tree_mode=mode)), realm_of(vmm))
    assert error_ids(verdict) == set()
    assert verdict.allowed


@pytest.mark.parametrize("vmm", ["qemu", "kvmtool"])
@pytest.mark.parametrize("exact", [False, True])
def test_the_rim_shown_is_the_one_of_the_realm(vmm, exact):
    """The simulator's RIM comes from a model of the RMM, not from the calculator."""
    draft = draft_workload(subject_of(vmm, exact_addresses=exact))
    stage = Stage(vm=realm_of(vmm))
    expected = {item.rmm: item.rim for item in review_of(subject_of(vmm), draft).rims}
    token = parse_cca_token(SimulatedRealm(stage.simulation()).token(stage.challenge), DEFAULT_LIMITS)
    assert expected["1.0"] == token.realm.claims.initial_measurement
    assert judged(draft, realm_of(vmm)).allowed


@pytest.mark.parametrize("mode", ["rules", "registered"])
@pytest.mark.parametrize(
    ("lie", "findings"),
    [
        ({"append": "console=ttyAMA0 init=/bin/sh"}, {"rules": "tree.bootargs", "registered": "rim.image-unknown"}),
        ({"memory": 512 * MIB}, {"rules": "boot.ram", "registered": "boot.ram"}),
        ({"cpus": 3}, {"rules": "tree.cpus", "registered": "rim.image-unknown"}),
        ({"files": VmFiles(kernel=KERNEL, initrd=OTHER_INITRD)}, {"rules": "boot.role-unexpected", "registered": "boot.role-unexpected"}),
        ({"files": VmFiles(kernel=NEW_KERNEL, initrd=INITRD)}, {"rules": "boot.role-unexpected", "registered": "boot.role-unexpected"}),
        ({"files": VmFiles(kernel=KERNEL)}, {"rules": "boot.role-missing", "registered": "boot.role-missing"}),
        ({"host": HostParameters(num_bps=4, num_wps=2)}, {"rules": "boot.parameters", "registered": "boot.parameters"}),
        ({"host": HostParameters(sve_vl=128)}, {"rules": "boot.flags", "registered": "boot.flags"}),
        ({"host": HostParameters(hash_algorithm=HashAlgorithm.SHA512)}, dict.fromkeys(("rules", "registered"), "boot.hash-algorithm")),
    ],
    ids=["forged-command-line", "more-memory", "more-cpus", "another-initrd", "another-kernel", "no-initrd", "breakpoints", "sve", "hash"],
)  # fmt: skip
def test_any_other_realm_is_refused(lie, findings, mode):
    verdict = judged(draft_workload(subject_of("qemu", tree_mode=mode)), realm_of("qemu", **lie))
    assert not verdict.allowed
    assert findings[mode] in error_ids(verdict)


def test_a_forged_command_line_is_refused_by_kvmtools_rules_too():
    verdict = judged(draft_workload(subject_of("kvmtool")), realm_of("kvmtool", append="console=ttyAMA0 rd.break"))
    assert "tree.bootargs" in error_ids(verdict)


def test_an_exact_address_holds_the_vmm_to_its_version():
    draft = draft_workload(subject_of("qemu", exact_addresses=True))
    moved = {rule["role"]: rule["addresses"] for rule in draft.document["images"]}
    assert moved == {"kernel": [{"min": "0x40000000", "max": "0x40000000"}], "initrd": [{"min": "0x48000000", "max": "0x48000000"}]}


def test_a_libvirt_domain_gives_the_workload_of_its_command_line():
    xml = (
        "<domain type='kvm'><name>r</name><memory unit='MiB'>256</memory><vcpu>2</vcpu><os><type arch='aarch64' machine='virt'>hvm</type>"
        "<kernel>k</kernel><initrd>i</initrd><cmdline>console=ttyAMA0</cmdline></os><features><gic version='3'/></features>"
        "<cpu mode='host-passthrough'/><launchSecurity type='cca' measurement-log='yes'><measurement-algo>sha256</measurement-algo>"
        "</launchSecurity></domain>"
    )
    arguments = read_libvirt_domain(xml.encode()).arguments
    subject = subject_of("qemu", definition=parse_arguments("qemu", arguments))
    assert draft_workload(subject).document == draft_workload(subject_of("qemu")).document
    assert judged(draft_workload(subject), realm_of("qemu")).allowed


def test_a_realm_of_cloud_hypervisor_needs_no_log():
    config = {
        "cpus": {"boot_vcpus": 1, "max_vcpus": 1},
        "payload": {"kernel": "k", "initramfs": "i", "cmdline": "console=hvc0"},
        "memory": {"size": 256 * MIB},
        "platform": {"measurement_algo": "sha256"},
    }
    definition = parse_arguments("cloud-hypervisor", cloud_hypervisor_arguments(json.dumps(config).encode()))
    subject = subject_of("qemu", definition=definition, profile=DEFAULTS["cloud-hypervisor"])
    draft = draft_workload(subject)
    assert draft.workload.definition is not None
    assert draft.workload.definition.without_log
    assert "vmm" not in draft.document


SHAPES = st.fixed_dictionaries({
    "cpus": st.integers(1, 20),
    "memory": st.integers(32, 1024).map(lambda count: count * 2 * MIB),
    "append": st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="'\"\\\\"), min_size=1, max_size=60),
    "its": st.booleans(),
})  # fmt: skip


def line_of(shape: dict, vmm: str) -> str:
    """The command line of such a VM, as a person would write it."""
    quoted = f"'{shape['append']}'"
    size = f"{shape['memory'] // MIB}M"
    if vmm == "kvmtool":
        irqchip = "gicv3-its" if shape["its"] else "gicv3"
        line = f"run --realm -c {shape['cpus']} -m {size} -k k -i i -p {quoted} --irqchip {irqchip}"
        return f"{line} --measurement-algo sha256 --measurement-log"
    its = "on" if shape["its"] else "off"
    guest = "-object rme-guest,id=rme0,measurement-algorithm=sha256,measurement-log=on"
    return f"-M virt,gic-version=3,its={its} {guest} -cpu host -smp {shape['cpus']} -m {size} -kernel k -initrd i -append {quoted}"


@settings(max_examples=12, deadline=None)
@given(shape=SHAPES, other=SHAPES, vmm=st.sampled_from(["qemu", "kvmtool"]), mode=st.sampled_from(["rules", "registered"]))
def test_a_workload_lets_its_own_vm_in_and_no_other(shape, other, vmm, mode):
    draft = draft_workload(subject_of(vmm, line_of(shape, vmm), tree_mode=mode))
    verdict = judged(draft, realm_of(vmm, **shape))
    assert verdict.allowed, verdict.findings
    if mode == "rules":
        other = {**other, "its": shape["its"]}  # rule packs let both kinds of interrupt controllers in
    if other != shape:
        assert not judged(draft, realm_of(vmm, **other)).allowed


# --- what the hosts decide --------------------------------------------------------------------------------------------


def test_two_hosts_open_what_they_differ_in_and_nothing_else():
    draft = draft_workload(subject_of("qemu", hosts=(SMALL_HOST, LARGE_HOST)))
    assert draft.document["parameters"] == {
        "ipa_bits": {"min": 41, "max": 41}, "breakpoints": {"min": 2, "max": 6}, "watchpoints": {"min": 2, "max": 4},
        "sve": True, "sve_vector_bits": {"min": 256, "max": 256}, "pmu": True, "pmu_counters": {"min": 8, "max": 8},
    }  # fmt: skip
    assert len({outcome.rim for outcome in draft.outcomes}) == len(draft.outcomes) == 4
    assert {key: draft.document["definition"][key] for key in ("breakpoints", "sve_vector_bits", "pmu_counters")} == {
        "breakpoints": [2, 6], "sve_vector_bits": ["off", 256], "pmu_counters": ["off", 8],
    }  # fmt: skip


def test_hosts_with_and_without_a_pmu_have_two_registered_trees():
    draft = draft_workload(subject_of("qemu", hosts=(SMALL_HOST, LARGE_HOST), tree_mode="registered"))
    assert len(draft.trees) == 2


def test_without_a_host_features_stay_refused_and_no_rim_is_made_up():
    subject = subject_of("qemu", hosts=())
    draft = draft_workload(subject)
    review = review_of(subject, draft)
    assert (review.rims, draft.workload.definition) == ((), None)
    assert (draft.workload.parameters.sve, draft.workload.parameters.pmu) == (False, False)
    assert any("Name hosts with -c" in line for line in review.left_open)


def test_without_a_host_the_definitions_own_limits_count():
    line = LINES["qemu"].replace("-cpu host", "-cpu host,sve256=on,pmu=on,num-breakpoints=4")
    assert draft_workload(subject_of("qemu", line, hosts=())).document["parameters"] == {
        "breakpoints": {"min": 2, "max": 4}, "sve": True, "sve_vector_bits": {"min": 128, "max": 256},
        "pmu": True, "pmu_counters": {"min": 0, "max": 31},
    }  # fmt: skip


def test_the_hash_stays_open_where_nobody_chooses_it():
    line = LINES["qemu"].replace(",measurement-algorithm=sha256", "")
    assert "hash_algorithms" not in draft_workload(subject_of("qemu", line)).document["rmm"]
    with_hash = HostChoice("h", replace(SMALL, hash_algorithm=HashAlgorithm.SHA512))
    assert draft_workload(subject_of("qemu", line, hosts=(with_hash,))).document["rmm"]["hash_algorithms"] == ["sha-512"]


def test_sha384_leaves_rmm_2_only():
    assert usable_versions((RmmVersion.V1_0, RmmVersion.V2_0), HashAlgorithm.SHA384) == (RmmVersion.V2_0,)
    assert usable_versions((RmmVersion.V1_0,), HashAlgorithm.SHA256) == (RmmVersion.V1_0,)


def test_the_personalization_value_is_pinned():
    line = LINES["qemu"].replace("id=rme0", "id=rme0,personalization-value=AQID")
    draft = draft_workload(subject_of("qemu", line))
    assert draft.document["realm"] == {"rpv": "010203".ljust(128, "0")}
    assert judged(draft, realm_of("qemu", rpv=b"\1\2\3")).allowed
    assert "rpv.mismatch" in error_ids(judged(draft, realm_of("qemu")))


# --- review -----------------------------------------------------------------------------------------------------------


def warnings_of(line: str, **changes) -> str:
    subject = subject_of("qemu", line, **changes)
    return "\n".join(review_of(subject, draft_workload(subject)).warnings)


def test_the_review_names_every_rule_of_the_document():
    subject = subject_of("qemu")
    keys = {rule.key.split(".")[0].split()[0] for rule in review_of(subject, draft_workload(subject)).rules}
    assert set(draft_workload(subject).document) - {"name"} <= keys | {"parameters"}


def test_what_an_administrator_should_know_is_a_warning():
    assert "no command line" in warnings_of(LINES["qemu"].replace("-append console=ttyAMA0", ""))
    assert "there is no initrd" in warnings_of(LINES["qemu"].replace("-initrd i", ""))
    assert "no realm" in warnings_of(LINES["qemu"].replace("-object rme-guest", "-object other"))
    assert "no realm can pass yet" in warnings_of(LINES["qemu"].replace(",measurement-log=on", ""), hosts=())
    firmware = LINES["qemu"].replace("-initrd i", "-bios f -initrd i")
    assert "what it starts is not in the RIM" in warnings_of(firmware)
    assert "the kernel goes through the firmware" in warnings_of(firmware)


def test_a_registered_tree_with_seeds_or_other_facts_is_a_warning():
    dumped = Path(__file__).parent.parent / "vectors" / "images" / "qemu-dtb"
    trees = [file.read_bytes().ljust(MIB, b"\0") for file in sorted(dumped.glob("*.dtb"))]
    found = [warnings_of(LINES["qemu"], tree=tree, tree_mode="registered") for tree in trees]
    assert any("kaslr-seed" in text for text in found)
    assert any("names other RAM than the VM has" in text for text in found)
    assert all("another place for the initrd" in text for text in found)


def test_firmware_outside_ram_is_held_to_its_address():
    line = LINES["qemu"].replace("-kernel k -initrd i -append console=ttyAMA0", "-bios f")
    draft = draft_workload(subject_of("qemu", line))
    assert draft.document["images"][0]["addresses"] == [{"min": "0x0", "max": "0x0"}]
    assert draft.document["entry"] == {"role": "firmware", "x0": "zero"}
    stage_vm = Ordered("qemu", "firmware", VmFiles(firmware=FIRMWARE),
                       order=replace(realm_of("qemu").definition, boot="firmware", append=None))  # fmt: skip
    assert judged(draft, stage_vm).allowed


def test_a_vm_that_starts_nothing_is_refused():
    line = LINES["qemu"].replace("-kernel k -initrd i -append console=ttyAMA0", "")
    with pytest.raises(InvalidDocument) as caught:
        draft_workload(subject_of("qemu", line))
    assert caught.value.finding_id == "document.workload-draft"


def test_the_document_alone_is_the_workload():
    draft = draft_workload(subject_of("qemu"))
    assert parse_workload(json.loads(json.dumps(draft.document))) == draft.workload
    assert QEMU_KERNEL.memory == draft.workload.memory.size.min
