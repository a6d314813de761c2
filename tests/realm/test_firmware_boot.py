"""Simulated measured boots: what real machines measured of the same files, written as the parser reads it, and every lie found out."""

import hashlib
import struct
from dataclasses import replace

import pytest
from measured_boot import BOOTS, MeasuredBoot
from pe_builder import PeFile, Section, uki
from stage import QEMU_FIRMWARE, Stage, error_ids

from kbs_rim.appraisal.finding_catalogue import CATALOGUE
from kbs_rim.appraisal.learned_review import warnings_of
from kbs_rim.appraisal.reference_boot import Boot, Choices, Learned, learn
from kbs_rim.appraisal.registered_image import ImageState, RegisteredImage
from kbs_rim.appraisal.rule_values import Role
from kbs_rim.appraisal.runtime_logs import RuntimeLog
from kbs_rim.appraisal.runtime_workload import LogRule
from kbs_rim.evidence.ccel import parse_ccel, parse_ccel_table
from kbs_rim.evidence.event_digest import rederive
from kbs_rim.evidence.event_log import event_log_from_tcg
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.evidence.log_label import parse_label
from kbs_rim.evidence.log_reader import read_event_log
from kbs_rim.evidence.tcg_log import LogKind, parse_tcg_log
from kbs_rim.measurement.image import measure_image
from kbs_rim.measurement.rem import replay_rems
from kbs_rim.realm.cc_log import AREA_SIZE, cc_area, cc_log, ccel_table
from kbs_rim.realm.cc_log_lies import BOOT_LIES, BootLie
from kbs_rim.realm.failures import SimulationFailed
from kbs_rim.realm.firmware_boot import Disk, FirmwareBoot
from kbs_rim.realm.rim_model import RealmHash
from kbs_rim.realm.simulator import SimulatedRealm

SHA256 = HashAlgorithm.SHA256
KERNEL = PeFile([Section(".text", hashlib.shake_128(b"a kernel").digest(5000))]).build()
GRUB = PeFile([Section(".text", hashlib.shake_128(b"GRUB").digest(3000))]).build()
INITRD = hashlib.shake_128(b"an initrd").digest(4001)
LINE = "console=ttyAMA0 panic=-1 rdinit=/init loglevel=1"
"""That of the boots in the vectors."""
UKI = uki((".linux", KERNEL), (".osrel", b"ID=test\n"), (".cmdline", LINE.encode()), (".initrd", INITRD), (".uname", b"6.1"))
CERTIFICATE = b"\x30\x82\x01\x00" + hashlib.shake_128(b"a certificate").digest(256)
DISKS = {
    "kernel": Disk(kernel=KERNEL, initrd=INITRD, append=LINE),
    "grub": Disk(kernel=KERNEL, initrd=INITRD, append=LINE, grub=GRUB),
    "uki": Disk(uki=UKI),
    "secure-boot": Disk(kernel=KERNEL, initrd=INITRD, append=LINE, grub=GRUB, secure_boot=CERTIFICATE),
}
TREE = struct.pack(">II", 0xD00DFEED, 64).ljust(64, b"t") + bytes(64)
ROLES = {
    "kernel": (KERNEL, (Role.KERNEL,)),
    "grub": (GRUB, (Role.BOOT_LOADER,)),
    "initrd": (INITRD, (Role.INITRD,)),
    "uki": (UKI, (Role.UKI,)),
    "grub.cfg": (f"linux /vmlinuz {LINE}\ninitrd /initrd.img\n".encode(), (Role.BOOT_FILE,)),
}


@pytest.fixture(params=DISKS)
def disk(request) -> Disk:
    return DISKS[request.param]


@pytest.fixture(params=RealmHash)
def hash_(request) -> RealmHash:
    return request.param


def registered() -> tuple[RegisteredImage, ...]:
    images = []
    for name, (data, roles) in ROLES.items():
        measured = measure_image(data)
        images.append(RegisteredImage(measured.image_id, name, roles, ImageState.ACTIVE, measured))
    return tuple(images)


def stage_for(learned: Learned) -> Stage:
    return Stage(vm=QEMU_FIRMWARE, changes={"realm": {"rems": learned.rems}, "runtime": learned.table}, measured=registered())


def realm_of(stage: Stage, disk: Disk, lie: BootLie | None = None) -> SimulatedRealm:
    return SimulatedRealm(stage.simulation(disk=disk, boot_lie=lie))


def learnt_from(realm: SimulatedRealm) -> Learned:
    """What an administrator learns from one boot of the disk."""
    assert realm.cc_log is not None
    label = parse_label("cc")
    log = read_event_log(realm.cc_log, label.format)
    tree = measure_image(bytes(realm.built.load("DTB").data))
    loaded = {tree.digests[SHA256]: RegisteredImage(tree.image_id, "tree", (Role.DEVICE_TREE,), ImageState.ACTIVE, tree)}
    boot = Boot(
        logs=[(LogRule(kind="cc"), RuntimeLog(label, log))], algorithm=SHA256, images=registered(), signed=realm.rems, loaded=loaded
    )
    return learn(boot, Choices(command_lines=(LINE,)))


# --- what is measured and written -------------------------------------------------------------------------------------


def test_the_parser_reads_what_the_firmware_writes(disk, hash_):
    measured = FirmwareBoot(disk, hash_, TREE).measurements()
    log = parse_ccel(ccel_table(), cc_area(cc_log(measured, hash_)))
    algorithm = HashAlgorithm.from_name(hash_.value)
    assert [(event.index, event.type, event.data, event.digests[algorithm.tpm_id]) for event in log.events] == [
        (item.register, item.event_type, item.event, item.digest) for item in measured
    ]
    assert log.padding == 0xFF
    table = parse_ccel_table(ccel_table())
    assert (table.cc_type_name, table.area_bytes) == ("Arm CCA", AREA_SIZE)


def test_every_digest_that_can_be_computed_again_is_right(disk, hash_):
    area = cc_area(cc_log(FirmwareBoot(disk, hash_, TREE).measurements(), hash_))
    for event in event_log_from_tcg(parse_tcg_log(area, LogKind.CC)).events:
        assert rederive(event, HashAlgorithm.from_name(hash_.value)).matches is not False, event


def test_the_log_replays_to_the_registers_of_the_modelled_rmm(disk):
    realm = realm_of(Stage(vm=QEMU_FIRMWARE), disk)
    assert replay_rems(read_event_log(realm.cc_log, parse_label("cc").format), SHA256) == realm.rems
    assert [any(rem) for rem in realm.rems] == [True, True, True, False]


def test_real_machines_measured_the_same(disk):
    """But for version, device tree, boot option and files, which are ours, each digest stands in a log of a real boot as well."""
    real = set()
    for folder in BOOTS.iterdir():
        if (folder / "oracle.json").exists():
            real |= {event["digests"]["sha256"] for event in MeasuredBoot(folder.name).events if event["digests"]}
    measured = FirmwareBoot(disk, RealmHash.SHA256, TREE).measurements()
    ours = {hashlib.sha256(data).hexdigest() for data, _ in ROLES.values()}
    about = {(item.register, item.event_type) for item in measured if item.digest.hex() not in real | ours}
    grub = {(3, 0xD)} if disk.grub or disk.uki else set()
    secure = {(1, 0x80000001), (1, 0x800000E0)} if disk.secure_boot else set()
    stub = {(3, 0x6)} if disk.uki else set()
    assert about <= {(1, 0x8), (1, 0x10), (1, 0x80000002), (2, 0x80000003), (2, 0x80000006)} | grub | secure | stub


def test_a_disk_that_no_firmware_could_start():
    for wrong in ({}, {"uki": UKI, "kernel": KERNEL}, {"uki": UKI, "append": "x"}, {"kernel": KERNEL, "append": "a\nb"}):
        with pytest.raises(SimulationFailed):
            Disk(**wrong)
    for bad in (b"no program", b"MZ" + bytes(100)):
        with pytest.raises(SimulationFailed, match="EFI program"):
            FirmwareBoot(Disk(kernel=bad), RealmHash.SHA256, TREE).measurements()
    with pytest.raises(SimulationFailed, match="sections of a UKI"):
        FirmwareBoot(Disk(uki=KERNEL), RealmHash.SHA256, TREE).measurements()


def test_only_firmware_boots_from_a_disk():
    with pytest.raises(SimulationFailed, match="only firmware"):
        realm_of(Stage(), DISKS["kernel"])
    with pytest.raises(SimulationFailed, match="there must be a disk"):
        SimulatedRealm(Stage(vm=QEMU_FIRMWARE).simulation(boot_lie=BootLie.LOG_DROPPED))


# --- learning and judging ---------------------------------------------------------------------------------------------


def test_a_realm_that_boots_as_it_did_when_its_rules_were_learnt(disk):
    first = realm_of(Stage(vm=QEMU_FIRMWARE), disk)
    learned = learnt_from(first)
    assert learned.complete, [lesson.what for lesson in learned.unexplained]
    assert not learned.table.get("digests")
    stage = stage_for(learned)
    verdict = stage.judge(realm_of(stage, disk).evidence(stage.challenge))
    assert error_ids(verdict) == set()
    assert verdict.allowed
    assert ("Secure Boot is off" in " ".join(warnings_of(learned))) == (disk.secure_boot is None)


@pytest.mark.parametrize("lie", BootLie)
def test_attack_every_lie_about_a_measured_boot_is_found_out(disk, lie):
    stage = stage_for(learnt_from(realm_of(Stage(vm=QEMU_FIRMWARE), disk)))
    verdict = stage.judge(realm_of(stage, disk, lie).evidence(stage.challenge))
    assert not verdict.allowed
    assert error_ids(verdict) & BOOT_LIES[lie].findings, error_ids(verdict)
    assert (
        not error_ids(verdict)
        - BOOT_LIES[lie].findings
        - {"rem.not-judged", "rem.replay", "rem.unexplained", "rem.image-missing", "rem.event-missing"}
    )


def test_every_lie_says_what_it_is_and_what_finds_it():
    assert set(BOOT_LIES) == set(BootLie)
    for lie, distortion in BOOT_LIES.items():
        assert distortion.findings <= CATALOGUE.keys(), lie
        assert distortion.about.endswith("."), lie


def test_attack_secure_boot_switched_off_after_learning():
    disk = DISKS["secure-boot"]
    stage = stage_for(learnt_from(realm_of(Stage(vm=QEMU_FIRMWARE), disk)))
    verdict = stage.judge(realm_of(stage, replace(disk, secure_boot=None)).evidence(stage.challenge))
    assert {"rem.secure-boot"} <= error_ids(verdict)


def test_attack_another_certificate_vouches():
    disk = DISKS["secure-boot"]
    stage = stage_for(learnt_from(realm_of(Stage(vm=QEMU_FIRMWARE), disk)))
    other = CERTIFICATE[:-1] + bytes([CERTIFICATE[-1] ^ 1])
    verdict = stage.judge(realm_of(stage, replace(disk, secure_boot=other)).evidence(stage.challenge))
    assert {"rem.secure-boot", "rem.authority"} <= error_ids(verdict)
