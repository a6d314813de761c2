"""Realms that write no log, judged by the table ``definition`` of a drafted workload: the token alone says who they are."""

import shlex
import time
from dataclasses import replace

import pytest
from stage import INITRD, KERNEL, ROLES, RULE_PACKS, Stage, Vm, error_ids

from kbs_rim.appraisal.appraise import Candidate, Case, Verdict, appraise
from kbs_rim.appraisal.findings import Finding
from kbs_rim.appraisal.registered_image import ImageSet, ImageState, RegisteredImage
from kbs_rim.appraisal.workload import Role
from kbs_rim.evidence.cca_token import parse_cca_token, reassemble
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.limits import DEFAULT_LIMITS, MIB
from kbs_rim.measurement.image import measure_image
from kbs_rim.measurement.vmm.arguments import parse_arguments
from kbs_rim.measurement.vmm.host_capabilities import HostCapabilities
from kbs_rim.measurement.vmm.profile import HostParameters
from kbs_rim.measurement.vmm.shipped_profiles import DEFAULTS
from kbs_rim.measurement.vmm.stock_qemu import stock_qemu_tree
from kbs_rim.measurement.vmm.stock_qemu_arguments import read_stock_arguments
from kbs_rim.measurement.vmm.stock_qemu_definition import BootFiles, HostFacts, stock_machine
from kbs_rim.measurement.vmm.stock_qemu_profile import qemu_version
from kbs_rim.realm.simulator import SimulatedRealm, Simulation
from kbs_rim.realm.vm_builder import LOG_STYLES, VmDefinition, VmFiles, build_script
from kbs_rim.workload_sources.draft import Draft, draft_workload
from kbs_rim.workload_sources.subject import DraftSubject, HostChoice

LINES = {
    "qemu": "-M virt,gic-version=3,dtb-randomness=off -object rme-guest,id=rme0,measurement-algorithm=sha256 -cpu host,pmu=off -enable-kvm "
    "-smp 2 -m 256M -kernel k -initrd i -append console=ttyAMA0",
    "kvmtool": "run --realm -c 2 -m 256M -k k -i i -p console=ttyAMA0 --measurement-algo sha256",
    "cloud-hypervisor": "--cpus boot=2 --memory size=256M --kernel k --initramfs i --cmdline console=ttyAMA0 "
    "--platform measurement_algo=sha256",
}
IMAGES = {"kernel": measure_image(KERNEL), "initrd": measure_image(INITRD)}
HOST = HostChoice("small", HostCapabilities(ipa_bits=48, num_bps=2, num_wps=2, pmu_num_ctrs=0, sve_vl=0, pmu=False))
ORDER = VmDefinition(
    vmm="qemu", boot="kernel", cpus=2, memory=256 * MIB, append="console=ttyAMA0", measurement_log=False,
    host=HostParameters(hash_algorithm=HashAlgorithm.SHA256, ipa_limit=48),
)  # fmt: skip
FILES = VmFiles(kernel=KERNEL, initrd=INITRD)


def draft_of(vmm: str, **changes) -> Draft:
    definition = parse_arguments(vmm, shlex.split(LINES[vmm]))
    subject = DraftSubject(name="web", definition=definition, profile=DEFAULTS[vmm], images=IMAGES, hosts=(HOST,))
    return draft_workload(replace(subject, **changes))


def judged(draft: Draft, order: VmDefinition, files: VmFiles = FILES) -> Verdict:
    """Appraise the token of the realm that this order gives; nothing comes with it."""
    stage = Stage(vm=Vm("qemu", "kernel", FILES))
    simulation = Simulation(script=build_script(order, files), log_style=LOG_STYLES["qemu"], identity=stage.identity)
    token = parse_cca_token(SimulatedRealm(simulation).token(stage.challenge))
    known = [*IMAGES.items(), *(("device-tree", tree) for tree in draft.trees)]
    at = int(time.time())
    case = Case(
        token=token,
        plan=None,
        log_findings=(Finding("log.missing", "no VMM log came with the token"),),
        challenge=stage.challenge,
        issued_at=at,
        at=at,
        attestation_result=stage.attestation_result(reassemble(token), at),
        ear_policy=stage.policy(),
        images=ImageSet(RegisteredImage(image.image_id, role, (Role(role),), ImageState.ACTIVE, image) for role, image in known),
        candidates=(Candidate(draft.workload, 1),),
        rule_packs=RULE_PACKS,
        limits=DEFAULT_LIMITS,
    )
    return appraise(case)


@pytest.mark.parametrize("mode", ["rules", "registered"])
@pytest.mark.parametrize("vmm", LINES)
def test_the_realm_of_the_definition_passes_without_a_log(vmm, mode):
    draft = draft_of(vmm, tree_mode=mode)
    assert draft.workload.definition is not None
    verdict = judged(draft, replace(ORDER, vmm=vmm))
    assert error_ids(verdict) == set(), verdict.findings
    assert verdict.allowed


@pytest.mark.parametrize("mode", ["rules", "registered"])
@pytest.mark.parametrize("vmm", LINES)
@pytest.mark.parametrize(
    "lie",
    [{"append": "console=ttyAMA0 init=/bin/sh"}, {"memory": 512 * MIB}, {"cpus": 3}, {"host": HostParameters(num_bps=4)}],
    ids=["forged-command-line", "more-memory", "more-cpus", "breakpoints"],
)
def test_any_other_realm_is_refused(vmm, mode, lie):
    verdict = judged(draft_of(vmm, tree_mode=mode), replace(ORDER, vmm=vmm, **lie))
    assert not verdict.allowed
    assert "rim.no-candidate" in error_ids(verdict)


def test_another_initrd_is_refused():
    verdict = judged(draft_of("qemu"), ORDER, VmFiles(kernel=KERNEL, initrd=b"another" * 1000))
    assert "rim.no-candidate" in error_ids(verdict)
    assert ROLES["INITRD"] is Role.INITRD


@pytest.mark.parametrize("mode", ["rules", "registered"])
def test_a_realm_with_the_emulators_own_tree_passes(mode):
    """The tree that stock QEMU 10.0 makes, 1 MiB of it: by its version, or registered."""
    files = BootFiles(kernel=IMAGES["kernel"].kernel, initrd_size=len(INITRD))
    machine = stock_machine(read_stock_arguments(shlex.split(LINES["qemu"])), qemu_version("10.0"), files, HostFacts(pmu=False), None)
    tree = stock_qemu_tree(machine)
    draft = draft_of("qemu", tree=tree, stock_tree="qemu-10.0", tree_mode=mode)
    assert draft.workload.definition is not None
    verdict = judged(draft, ORDER, replace(FILES, device_tree=tree))
    assert error_ids(verdict) == set(), verdict.findings
    other = judged(draft, ORDER, replace(FILES, device_tree=tree[:-1] + b"\1"))
    assert not other.allowed
