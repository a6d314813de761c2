"""Each lie against the judging code: it must be told apart from the truth, and by the finding that it announces.

No verifier here: what the platform's maker would say is not looked at, everything else of an appraisal is.
"""

import dataclasses
import hashlib
import struct

import cbor2
import pytest

from kbs_rim.appraisal.appraise import read_log
from kbs_rim.appraisal.boot_rules import judge_boot_plan
from kbs_rim.appraisal.finding_catalogue import CATALOGUE
from kbs_rim.appraisal.findings import errors_of
from kbs_rim.appraisal.realm_rules import judge_claims
from kbs_rim.appraisal.registered_image import ImageSet, ImageState, RegisteredImage
from kbs_rim.appraisal.token_rules import judge_platform_signature, judge_realm_token
from kbs_rim.appraisal.workload import Role, parse_workload
from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.cca_token import parse_cca_token
from kbs_rim.limits import DEFAULT_LIMITS
from kbs_rim.measurement.dialect import Dialect
from kbs_rim.measurement.image import measure_image
from kbs_rim.measurement.replay import match_rim
from kbs_rim.measurement.rmm import RmmVersion
from kbs_rim.realm.failures import SimulationFailed
from kbs_rim.realm.lies import LIES, Lie
from kbs_rim.realm.platform_identity import LIFECYCLE_RMM_DEBUG, PlatformIdentity
from kbs_rim.realm.rim_model import RmmGeneration
from kbs_rim.realm.simulator import SimulatedRealm, Simulation, TokenStyle
from kbs_rim.realm.token_factory import OuterForm
from kbs_rim.realm.vm_builder import LOG_STYLES, VmDefinition, VmFiles, build_script

CHALLENGE = hashlib.sha512(b"a fresh challenge").digest()
MIB = 1 << 20
DIALECTS = tuple(Dialect(rmm) for rmm in RmmVersion)
ROLES = {"KERNEL": Role.KERNEL, "INITRD": Role.INITRD, "FIRMWARE": Role.FIRMWARE, "DTB": Role.DEVICE_TREE}
VMS = {
    "qemu-kernel": ("qemu", "kernel"),
    "qemu-firmware": ("qemu", "firmware"),
    "kvmtool-kernel": ("kvmtool", "kernel"),
    "kvmtool-firmware": ("kvmtool", "firmware"),
}
NEEDS_INITRD = {Lie.UNMEASURED_INITRD, Lie.UNMEASURED_INITRD_PAGE}
SEEN_BY_RIM = {"rim.mismatch", "rim.image-unknown"}


def content(name, size):
    return hashlib.shake_128(name.encode()).digest(size)


def files_for(boot):
    if boot == "firmware":
        return VmFiles(firmware=content("firmware", 100_000))
    header = struct.pack("<IIQQQ24x4sI", 0, 0, 0, 0x40000, 0xA, b"ARMd", 0)
    return VmFiles(kernel=header + content("kernel", 90_000), initrd=content("initrd", 50_001))


@pytest.fixture(scope="module")
def identity():
    return PlatformIdentity.generate("P-256")


@pytest.fixture(scope="module", params=VMS)
def vm(request):
    vmm, boot = VMS[request.param]
    return vmm, boot, build_script(VmDefinition(vmm=vmm, boot=boot, cpus=2, memory=256 * MIB), files_for(boot))


def simulate(vm, identity, lie, form=OuterForm.CMW):
    return SimulatedRealm(Simulation(script=vm[2], log_style=LOG_STYLES[vm[0]], identity=identity, lie=lie, tokens=TokenStyle(form=form)))


def registry(script):
    """Everything the administrator registered: the images of the VM as it was promised."""
    images = []
    for load in script.loads:
        measured = measure_image(bytes(load.data))
        images.append(RegisteredImage(measured.image_id, load.name, (ROLES[load.name],), ImageState.ACTIVE, measured))
    return images


def workload_for(vm, images):
    vmm, boot, script = vm
    rules = []
    for image in images:
        rule = {"role": image.roles[0].value, "images": [image.id]}
        if image.name == "FIRMWARE" and vmm == "qemu":
            rule["addresses"] = [{"min": 0, "max": 0}]
        rules.append(rule)
    return parse_workload(
        {
            "name": "test",
            "entry": {"role": boot, "x0": "zero" if (vmm, boot) == ("qemu", "firmware") else "device-tree"},
            "images": rules,
            "memory": {"base": script.ram[0], "size": {"min": script.ram[1], "max": script.ram[1]}},
        }
    )


def judge(realm, vm, challenge=CHALLENGE):
    """Return the ids of all error findings about this realm, in the order of an appraisal."""
    evidence = realm.evidence(challenge)
    plan, findings = read_log(evidence, DEFAULT_LIMITS)
    ids = [finding.id for finding in errors_of(findings)]
    try:
        token = parse_cca_token(evidence.token)
    except MalformedEvidence as error:
        return [error.finding_id, *ids]
    images = registry(vm[2])
    workload = workload_for(vm, images)
    found = [
        *judge_realm_token(token, challenge=challenge, allow_test_keys=False, allow_legacy_profile=False),
        *judge_platform_signature(token, realm.simulation.identity.cpak.public_key()),
        *judge_claims(token, workload),
    ]
    if plan is not None:
        known = ImageSet(images)
        try:
            matched = match_rim(plan, known, token.realm.claims.initial_measurement, DIALECTS).matched
            ids += [] if matched else ["rim.mismatch"]
        except MalformedEvidence as error:
            ids.append(error.finding_id)
            matched = None
        resolved = {image.event: known.registered(image.algorithm, image.digest) for image in plan.images}
        found += judge_boot_plan(plan, {event: image for event, image in resolved.items() if image}, workload, matched)
    return ids + [finding.id for finding in errors_of(found)]


def test_the_truth_is_accepted(vm, identity):
    assert judge(simulate(vm, identity, None), vm) == []


@pytest.mark.parametrize("lie", list(Lie))
def test_every_lie_is_found_out(vm, identity, lie):
    if lie in NEEDS_INITRD and vm[1] == "firmware":
        with pytest.raises(SimulationFailed, match="no INITRD"):
            simulate(vm, identity, lie)
        return
    seen = judge(simulate(vm, identity, lie), vm)
    assert LIES[lie].findings & set(seen), seen


def test_every_lie_has_an_entry_with_known_findings():
    assert set(LIES) == set(Lie)
    for lie, distortion in LIES.items():
        assert distortion.findings, lie
        assert distortion.findings <= CATALOGUE.keys(), lie
        assert distortion.about.endswith("."), lie


HONESTLY_LOGGED = [
    Lie.PC_OFF_ENTRY, Lie.X0_IN_LOG_AREA, Lie.UNMEASURED_INITRD_PAGE, Lie.SECOND_RUNNABLE_REC, Lie.EXTRA_IMAGE,
    Lie.DEBUG_PLATFORM, Lie.REM_MOVED, Lie.REPLAYED_NONCE, Lie.SPLICED_PLATFORM_TOKEN,
]  # fmt: skip


@pytest.mark.parametrize("lie", HONESTLY_LOGGED)
def test_a_host_that_logs_what_it_did_gets_a_matching_rim(identity, lie):
    """These attacks are the reason for the boot plan rules: the RIM does not give them away."""
    vm = ("qemu", "kernel", build_script(VmDefinition(vmm="qemu", boot="kernel", memory=256 * MIB), files_for("kernel")))
    seen = judge(simulate(vm, identity, lie), vm)
    assert seen
    assert not SEEN_BY_RIM & set(seen)


def test_the_debug_platform_signs_its_own_state(vm, identity):
    token = parse_cca_token(simulate(vm, identity, Lie.DEBUG_PLATFORM).token(CHALLENGE))
    assert token.platform.claims.lifecycle == LIFECYCLE_RMM_DEBUG
    assert judge_platform_signature(token, identity.cpak.public_key()) == ()


def test_both_halves_of_a_spliced_token_are_signed_well(vm, identity):
    token = parse_cca_token(simulate(vm, identity, Lie.SPLICED_PLATFORM_TOKEN).token(CHALLENGE))
    assert judge_platform_signature(token, identity.cpak.public_key()) == ()
    findings = judge_realm_token(token, challenge=CHALLENGE, allow_test_keys=False, allow_legacy_profile=False)
    assert [finding.id for finding in findings] == ["realm.binding"]


@pytest.mark.parametrize("form", list(OuterForm))
@pytest.mark.parametrize("lie", [Lie.DUPLICATE_KEYS_FORGED_LAST, Lie.DUPLICATE_KEYS_FORGED_FIRST, Lie.DUPLICATE_KEYS_TEXT])
def test_a_lenient_reader_would_take_the_forged_realm(identity, lie, form):
    """The attack is real: last-wins (or integers only) sees the wanted RIM under a foreign platform key, first-wins does not."""
    vm = ("qemu", "kernel", build_script(VmDefinition(vmm="qemu", boot="kernel", memory=256 * MIB), files_for("kernel")))
    realm, honest = simulate(vm, identity, lie, form), simulate(vm, identity, None)
    body = realm.token(CHALLENGE)[3:]
    pairs, rest = [], body[1:]
    for _ in range(body[0] & 0x1F):
        key = cbor2.loads(rest)
        rest = rest[len(cbor2.dumps(key)) :]
        value = cbor2.loads(rest)
        rest = rest[len(cbor2.dumps(value)) :]
        pairs.append((key, value[1] if form is OuterForm.CMW else value))
    assert rest == b""
    first, last = {}, {}
    for key, value in pairs:
        first.setdefault(int(key), value)
        last[int(key)] = value
    forged, genuine = (first, last) if lie is Lie.DUPLICATE_KEYS_FORGED_FIRST else (last, first)

    def rim_of(members):
        return cbor2.loads(cbor2.loads(members[44241]).value[2])[44238]

    assert rim_of(genuine) == realm.rim != honest.rim
    assert rim_of(forged) == honest.rim
    assert forged[44234] != genuine[44234]


def test_each_challenge_gets_its_own_token(vm, identity):
    realm = simulate(vm, identity, None)
    one, two = realm.evidence(bytes(64)), realm.evidence(CHALLENGE)
    assert parse_cca_token(one.token).realm.claims.challenge == bytes(64)
    assert parse_cca_token(two.token).realm.claims.challenge == CHALLENGE
    assert one.logs == two.logs


def test_rems_follow_the_extends_of_the_running_realm(vm, identity):
    simulation = simulate(vm, identity, None).simulation
    realm = SimulatedRealm(dataclasses.replace(simulation, extends=((2, b"\x01" * 32), (2, b"x"))))
    once = hashlib.sha256(bytes(32) + b"\x01" * 32).digest()
    assert realm.rems == (bytes(32), hashlib.sha256(once + b"x").digest(), bytes(32), bytes(32))


@pytest.mark.parametrize("generation", list(RmmGeneration))
def test_both_rmm_generations_match_one_dialect(vm, identity, generation):
    simulation = dataclasses.replace(simulate(vm, identity, None).simulation, generation=generation)
    realm = SimulatedRealm(simulation)
    plan, _ = read_log(realm.evidence(CHALLENGE), DEFAULT_LIMITS)
    matched = match_rim(plan, ImageSet(registry(vm[2])), realm.rim, DIALECTS).matched
    assert matched is not None
    assert matched.rmm.value == generation.value
