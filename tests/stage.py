"""A stage for whole appraisals: small images, a simulated host, a platform with its endorsements, registered trust."""

import hashlib
import struct
import time
from dataclasses import dataclass, field, replace

from kbs_rim.appraisal.appraise import Candidate, Case, Verdict, appraise, read_log, read_runtime, read_tree
from kbs_rim.appraisal.attestation_result import EarPolicy
from kbs_rim.appraisal.ear_signature import EarKey
from kbs_rim.appraisal.endorsement_files import parse_endorsements
from kbs_rim.appraisal.endorsements import EndorsementStore
from kbs_rim.appraisal.measured_images import MeasuredImages
from kbs_rim.appraisal.registered_image import ImageSet, ImageState, RegisteredImage
from kbs_rim.appraisal.workload import Role, Workload, parse_workload
from kbs_rim.evidence.cca_token import parse_cca_token, reassemble
from kbs_rim.evidence.envelope import Evidence
from kbs_rim.limits import DEFAULT_LIMITS, MIB, Limits
from kbs_rim.measurement.image import measure_image
from kbs_rim.realm.host_script import HostScript
from kbs_rim.realm.platform_identity import PlatformIdentity
from kbs_rim.realm.simulator import SimulatedRealm, Simulation
from kbs_rim.realm.vm_builder import LOG_STYLES, VmDefinition, VmFiles, build_script
from kbs_rim.reference_verifier.app import ear_claims
from kbs_rim.reference_verifier.signing import SigningKey
from kbs_rim.reference_verifier.trust_vectors import appraise_token
from kbs_rim.rule_packs import load_rule_packs

ROLES = {"KERNEL": Role.KERNEL, "INITRD": Role.INITRD, "FIRMWARE": Role.FIRMWARE, "DTB": Role.DEVICE_TREE}


def kernel_file(seed: bytes = b"kernel", size: int = 40_000) -> bytes:
    """An arm64 Image of ``size`` bytes."""
    body = (hashlib.sha512(seed).digest() * (size // 64 + 1))[:size]
    header = struct.pack("<IIQQQQQQII", 0x91005A4D, 0x14000000, 0, 0x20000, 0xA, 0, 0, 0, 0x644D5241, 64)
    return header + body[len(header) :]


@dataclass(frozen=True)
class Vm:
    """One of the three VMs of the demo, small."""

    vmm: str
    boot: str
    files: VmFiles
    memory: int = 256 * MIB

    @property
    def definition(self) -> VmDefinition:
        """What its owner orders."""
        return VmDefinition(vmm=self.vmm, boot=self.boot, cpus=2, memory=self.memory, append="console=ttyAMA0")

    @property
    def script(self) -> HostScript:
        """What an honest host does."""
        return build_script(self.definition, self.files)

    def workload_document(self, name: str) -> dict:
        """A workload that this VM satisfies."""
        script = self.script
        images = [{"role": ROLES[load.name].value, "images": [measure_image(bytes(load.data)).image_id]} for load in script.loads]
        if self.boot == "firmware" and self.vmm == "qemu":
            for rule in images:
                if rule["role"] == "firmware":
                    rule["addresses"] = [{"min": 0, "max": 0}]
        x0 = "zero" if self.vmm == "qemu" and self.boot == "firmware" else "device-tree"
        base, size = script.ram
        return {
            "name": name,
            "entry": {"role": self.boot, "x0": x0},
            "images": images,
            "memory": {"base": base, "size": {"min": size, "max": size}},
            "vmm": ["QEMU" if self.vmm == "qemu" else "kvmtool"],
        }


KERNEL, INITRD, FIRMWARE = kernel_file(), b"initrd bytes " * 1001, b"firmware volume " * 700
QEMU_KERNEL = Vm("qemu", "kernel", VmFiles(kernel=KERNEL, initrd=INITRD))
QEMU_FIRMWARE = Vm("qemu", "firmware", VmFiles(firmware=FIRMWARE))
KVMTOOL_KERNEL = Vm("kvmtool", "kernel", VmFiles(kernel=KERNEL, initrd=INITRD))


def endorsements_of(identity: PlatformIdentity) -> EndorsementStore:
    """What a verifier knows of one platform."""
    return EndorsementStore([parse_endorsements(identity.corim(), at=1_790_000_000)])


RULE_PACKS = load_rule_packs()
BOOTARGS = {"qemu": "console=ttyAMA0", "kvmtool": " console=hvc0 root=/dev/vda rw  console=ttyAMA0"}


def judging_trees(vm: Vm, document: dict, **rules) -> dict:
    """The same workload, but device trees are judged by the VMM's rule pack and none is listed."""
    table = {"mode": "rules", "pack": "qemu-virt" if vm.vmm == "qemu" else vm.vmm, "bootargs": {"exact": [BOOTARGS[vm.vmm]]}}
    images = [rule for rule in document["images"] if rule["role"] != "device-tree"]
    return {**document, "images": images, "device_tree": {**table, **rules}}


@dataclass
class Stage:
    """A platform, its verifier's key, registered images and one workload. ``tree_rules``: see ``judging_trees``.

    ``measured`` are images that the registry knows by what was measured into REMs.
    """

    vm: Vm = QEMU_KERNEL
    identity: PlatformIdentity = field(default_factory=PlatformIdentity.generate)
    signing_key: SigningKey = field(default_factory=SigningKey.generate)
    states: dict[str, ImageState] = field(default_factory=dict)
    changes: dict = field(default_factory=dict)
    limits: Limits = DEFAULT_LIMITS
    tree_rules: dict | None = None
    measured: tuple[RegisteredImage, ...] = ()
    challenge: bytes = hashlib.sha512(b"challenge").digest()
    ear_change: object = None

    def simulation(self, **changes) -> Simulation:
        """The honest realm, with changes."""
        simulation = Simulation(script=self.vm.script, log_style=LOG_STYLES[self.vm.vmm], identity=self.identity)
        return replace(simulation, **changes)

    @property
    def workload(self) -> Workload:
        """The registered workload."""
        document = self.vm.workload_document("web")
        if self.tree_rules is not None:
            document = judging_trees(self.vm, document, **self.tree_rules)
        return parse_workload({**document, **self.changes})

    def images(self) -> ImageSet:
        """What is registered: the images of the honest VM."""
        return ImageSet(
            RegisteredImage(image.image_id, load.name, (ROLES[load.name],), self.states.get(load.name, ImageState.ACTIVE), image)
            for load in self.vm.script.loads
            for image in [measure_image(bytes(load.data))]
            if self.tree_rules is None or load.name != "DTB" or load.name in self.states
        )

    def attestation_result(self, token: bytes, at: int) -> str:
        """What an honest verifier answers for our challenge."""
        submods = appraise_token(token, self.challenge, endorsements_of(self.identity), at=at, allow_test_keys=False, limits=self.limits)
        claims = ear_claims(submods, self.challenge, at=at)
        if self.ear_change:
            self.ear_change(claims)
        return self.signing_key.sign(claims)

    def policy(self) -> EarPolicy:
        """Pin the verifier's key."""
        return EarPolicy(keys=(EarKey.from_jwk(self.signing_key.public_jwk()),))

    def judge(self, evidence: Evidence | None = None, *, candidates=None, ear=None, **simulated) -> Verdict:
        """Appraise the evidence of a simulated realm."""
        evidence = evidence or SimulatedRealm(self.simulation(**simulated)).evidence(self.challenge)
        token = parse_cca_token(evidence.token, self.limits)
        plan, log_findings = read_log(evidence, self.limits)
        at = int(time.time())
        candidates = (Candidate(self.workload, 1),) if candidates is None else candidates
        tree = read_tree(evidence, plan, candidates, self.limits)
        runtime, _ = read_runtime(evidence, candidates, token, self.limits)
        case = Case(
            token=token,
            plan=plan,
            log_findings=log_findings,
            challenge=self.challenge,
            issued_at=at,
            at=at,
            attestation_result=ear or self.attestation_result(reassemble(token), at),
            ear_policy=self.policy(),
            images=self.images().with_supplied(tree.supplied.image if tree.supplied else None),
            candidates=candidates,
            device_tree=tree,
            rule_packs=RULE_PACKS,
            runtime=runtime,
            measured=MeasuredImages(self.measured),
            limits=self.limits,
        )
        return appraise(case)


def error_ids(verdict: Verdict) -> set[str]:
    """Ids of the findings that refuse."""
    return {finding.id for finding in verdict.findings if finding.severity.value == "error"}
