"""From a VMM log to a boot plan: what is legitimate is read raw, what is hostile is refused before it costs anything."""

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbs_rim.appraisal.finding_catalogue import CATALOGUE
from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.evidence.tcg_events import describe_event
from kbs_rim.evidence.tcg_log import LogKind, guess_kind, parse_tcg_log
from kbs_rim.evidence.vmm_records import VmVersionLayout
from kbs_rim.limits import Limits
from kbs_rim.measurement.boot_plan import (
    BootPlan,
    LoadedImage,
    LogArea,
    RecRecord,
    RipasRecord,
    boot_plan_from_log,
    check_vmm_records,
)
from kbs_rim.measurement.rmm import RealmFlags

LOGS = Path(__file__).parent.parent / "vectors" / "logs"
HOSTILE = LOGS / "synthetic" / "hostile"
RAM, PAGE, MIB = 0x40000000, 4096, 1 << 20
SHA256, SHA512 = 0xB, 0xD
DIGEST = b"\x11" * 32


def log_of(*records: bytes, algorithms: tuple[int, ...] = (SHA256,)) -> bytes:
    sizes = {SHA256: 32, SHA512: 64, 0x4: 20}
    table = b"".join(struct.pack("<HH", identifier, sizes[identifier]) for identifier in algorithms)
    event = b"Spec ID Event03\0" + struct.pack("<IBBBBI", 0, 0, 2, 106, 2, len(algorithms)) + table + b"\0"
    return struct.pack("<II20sI", 0, 3, b"", len(event)) + event + b"".join(records)


def record(event_type: int, digests: dict[int, bytes], data: bytes) -> bytes:
    body = b"".join(struct.pack("<H", identifier) + digest for identifier, digest in digests.items())
    return struct.pack("<III", 0, event_type, len(digests)) + body + struct.pack("<I", len(data)) + data


def tag(number: int, data: bytes) -> bytes:
    return record(0x6, {}, struct.pack("<II", number, len(data)) + data)


def create(flags=0, s2sz=41, sve_vl=0, num_bps=5, num_wps=3, pmu_num_ctrs=0, hash_algo=0) -> bytes:
    return tag(1, struct.pack("<QBBBBBB2x", flags, s2sz, sve_vl, num_bps, num_wps, pmu_num_ctrs, hash_algo))


def ripas(base=RAM, size=512 * MIB) -> bytes:
    return tag(2, struct.pack("<QQ", base, size))


def rec(flags=1, pc=RAM, x0=0) -> bytes:
    return tag(3, struct.pack("<QQ8Q", flags, pc, x0, *[0] * 7))


def blob(name: bytes, base=RAM, size=5000, digests: dict[int, bytes] | None = None, event_type: int = 0x13) -> bytes:
    digests = {SHA256: DIGEST} if digests is None else digests
    return record(event_type, digests, bytes([len(name)]) + name + struct.pack("<QQ", base, size))


def log_area(base=RAM + 0x8300000, size=64 * 1024, name: bytes = b"LOG") -> bytes:
    return blob(name, base, size, {})


def vm_version(cpus=2, ram=512 * MIB, name: bytes = b"QEMU") -> bytes:
    return record(0x3, {SHA256: bytes(32)}, struct.pack("<16s32s40sQI4xQ", b"VM VERSION", name, b"9.1", ram, cpus, 0))


def plan_of(*records: bytes, limits: Limits = Limits(), **more) -> BootPlan:  # noqa: B008
    return boot_plan_from_log(parse_tcg_log(log_of(*records, **more), LogKind.VMM, limits), limits)


def refused(*records: bytes, limits: Limits = Limits(), **more) -> MalformedEvidence:  # noqa: B008
    with pytest.raises(MalformedEvidence) as caught:
        plan_of(*records, limits=limits, **more)
    assert caught.value.finding_id in CATALOGUE
    return caught.value


# What emitters write


@pytest.mark.parametrize("name", ["sha256", "sha512"])
def test_emitter_log_becomes_a_plan(name):
    data = (LOGS / "synthetic" / f"emitter-layout-kernel-{name}.bin").read_bytes()
    plan = boot_plan_from_log(parse_tcg_log(data, LogKind.VMM))
    assert plan.hash_algorithm is HashAlgorithm.from_name(name)
    assert (plan.vm.event, plan.vm.name, plan.vm.version, plan.vm.ram_size, plan.vm.num_cpus) == (0, "QEMU", "9.1", 512 * MIB, 2)
    assert plan.vm.layout is VmVersionLayout.EMITTER
    params = plan.create.params
    assert (params.flags, params.s2sz, params.sve_vl, params.num_bps, params.num_wps, params.pmu_num_ctrs) == (6, 41, 1, 5, 3, 6)
    assert [type(step) for step in plan.steps] == [RipasRecord, LoadedImage, LoadedImage, LoadedImage, RecRecord, LogArea]
    assert [(image.event, image.description, image.base, image.size) for image in plan.images] == [
        (3, "KERNEL", RAM, 5000), (4, "INITRD", 0x48000004, 3000), (5, "DTB", 0x48200000, 8192),
    ]  # fmt: skip
    assert plan.ripas == (RipasRecord(2, RAM, 512 * MIB),)
    assert plan.log_area == LogArea(7, 0x48300000, 64 * 1024)
    assert plan.recs[0].rec.gprs[0] == 0x48200000
    assert all(len(image.digest) == plan.hash_algorithm.digest_size for image in plan.images)


def test_raw_fields_are_kept_verbatim():
    """LPA2, DA and MEC bits, and counters without their flag, go into the RIM as the host gave them (T10)."""
    flags = RealmFlags.LPA2 | RealmFlags.DA | RealmFlags.MEC_PRIVATE | 1 << 40
    params = plan_of(create(flags=flags, s2sz=52, sve_vl=200, pmu_num_ctrs=200)).create.params
    assert (params.flags, params.s2sz, params.sve_vl, params.pmu_num_ctrs) == (flags, 52, 200, 200)


@pytest.mark.parametrize("name", [b"LOG", b"LOG\0", b"LOG\0\0\0\0"])
def test_log_area_is_known_with_and_without_nul(name):
    assert plan_of(create(), log_area(name=name)).log_area == LogArea(1, RAM + 0x8300000, 64 * 1024)


def test_older_kvmtool_populates_the_log_before_the_recs():
    plan = plan_of(create(), blob(b"KERNEL\0"), log_area(), rec())
    assert [type(step) for step in plan.steps] == [LoadedImage, LogArea, RecRecord]
    assert plan.images[0].description == "KERNEL"


def test_documented_layout_with_two_algorithms():
    """Tags with digests of zeros, EV_NO_ACTION with real ids, images with a digest of each algorithm."""
    digests = {SHA256: DIGEST, SHA512: b"\x22" * 64}
    zeros = {SHA256: bytes(32), SHA512: bytes(64)}
    version = record(0x3, zeros, struct.pack("<16s32s40sQQQI", b"VM VERSION", b"QEMU", b"9.1", 0, 0, 512 * MIB, 2))
    tagged = create(hash_algo=1)
    with_digests = record(0x6, {SHA512: bytes(64)}, tagged[-24:])
    plan = plan_of(version, with_digests, blob(b"KERNEL", digests=digests), algorithms=(SHA256, SHA512))
    assert plan.vm.layout is VmVersionLayout.DOCUMENTED
    assert plan.vm.ram_size == 512 * MIB
    assert (plan.images[0].algorithm, plan.images[0].digest) == (HashAlgorithm.SHA512, b"\x22" * 64)
    assert plan.images[0].other_digests == ((HashAlgorithm.SHA256, DIGEST),)


def test_recs_are_left_to_the_boot_rules():
    """None, a second and a non-runnable REC are no contradiction; they are judged after the RIM matched."""
    assert plan_of(create()).recs == ()
    assert [item.rec.runnable for item in plan_of(create(), rec(), rec(flags=0), rec(flags=3)).recs] == [True, False, True]


def test_unknown_no_action_records_are_ignored():
    other = record(0x3, {SHA256: bytes(32)}, b"ACPI".ljust(16, b"\0") + bytes(100))
    plan = plan_of(other, create(), other, rec())
    assert (plan.vm, plan.create.event, [step.event for step in plan.steps]) == (None, 1, [3])


def test_a_device_tree_in_the_log_is_kept_and_changes_nothing_else():
    tree = record(0x3, {SHA256: bytes(32)}, b"DTB".ljust(16, b"\0") + b"tree")
    plan = plan_of(create(), tree, rec())
    assert plan.sent_tree == b"tree"
    assert plan_of(create(), rec()).sent_tree is None
    assert "tree" not in repr(plan).replace("sent_tree", "")


def test_attack_two_device_trees_in_one_log():
    tree = record(0x3, {SHA256: bytes(32)}, b"DTB".ljust(16, b"\0") + b"tree")
    with pytest.raises(MalformedEvidence) as refused:
        plan_of(create(), tree, tree, rec())
    assert refused.value.finding_id == "tree.ambiguous"


def test_plans_are_hashable_and_comparable():
    assert hash(plan_of(create(), rec())) == hash(plan_of(create(), rec()))
    assert plan_of(create(), rec()) != plan_of(create(), rec(pc=0))


def test_other_kinds_of_log_give_no_plan():
    with pytest.raises(ValueError, match="VMM"):
        boot_plan_from_log(parse_tcg_log((LOGS / "tpm" / "crypto_agile_eventlog").read_bytes(), LogKind.TPM))


# Hostile logs: section 5 of the measurement log notes


def everything(data: bytes, kind: LogKind, limits: Limits) -> None:
    log = parse_tcg_log(data, kind, limits)
    for event in log.events:
        describe_event(event, kind)
    if kind is LogKind.VMM:
        boot_plan_from_log(log, limits)


HOSTILE_FINDINGS = {
    "01-s2sz-0": "plan.parameters",
    "02-s2sz-255": "plan.parameters",
    "03-s2sz-53": "plan.parameters",
    "05-ripas-sum-overflow": "plan.ripas",
    "06-ripas-huge": "plan.parameters",
    "07-unmeasured-huge": "plan.log-area",
    "10-second-realm-create": "plan.realm-create",
    "11-digest-count-max": "log.digests",
    "13-specid-algs-0x40000000": "log.spec-id",
    "14-specid-no-vendor-byte": "log.spec-id",
    "16-variable-data-short": "log.event-data",
    "18-gpt-entry-size-0": "log.event-data",
    "19-devpath-short": "log.event-data",
    "21-ipl-empty-after-colon": "log.digests",
    "22-ipl-non-utf8": "log.digests",
    "23-pcr-0xffffffff": "log.index",
    "25-tag-in-pcr9": "log.index",
    "26-tag-datasize-mismatch": "log.event-data",
    "28-numcpus-65536": "plan.vm-version",
    "29-truncated-mid-event": "log.truncated",
    "31-image-amplification": "log.too-large",
    "38-legacy-sha1-log": "log.legacy",
}
LEGITIMATE_OR_JUDGED_LATER = {
    "32-rec-not-runnable": "boot.rec-count",
    "34-overlapping-images": "boot.overlap",
    "36-blobsize-lies": "rim.image-size",
    "39-doc-layout-vmversion": None,
    "40-lpa2-flag": None,
}


def test_every_hostile_log_has_a_verdict():
    assert {path.stem for path in HOSTILE.iterdir()} == {*HOSTILE_FINDINGS, *LEGITIMATE_OR_JUDGED_LATER}


@pytest.mark.parametrize(("name", "finding"), sorted(HOSTILE_FINDINGS.items()))
def test_hostile_log_is_refused(name, finding):
    data = (HOSTILE / f"{name}.bin").read_bytes()
    with pytest.raises(MalformedEvidence) as caught:
        everything(data, guess_kind(data), Limits())
    assert caught.value.finding_id == finding


@pytest.mark.parametrize("name", sorted(HOSTILE_FINDINGS))
def test_hostile_log_is_refused_as_evidence_too(name):
    """Evidence says its kind: as a VMM log none of them gives a plan, whatever else it may be."""
    with pytest.raises(MalformedEvidence) as caught:
        boot_plan_from_log(parse_tcg_log((HOSTILE / f"{name}.bin").read_bytes(), LogKind.VMM))
    assert caught.value.finding_id in CATALOGUE


def test_image_amplification_is_refused_by_the_number_of_images():
    """2000 records of 73 bytes that would each replay a kernel (D6): the count refuses them even in a log of allowed size."""
    limits = Limits(vmm_log_bytes=MIB)
    log = parse_tcg_log((HOSTILE / "31-image-amplification.bin").read_bytes(), LogKind.VMM, limits)
    with pytest.raises(MalformedEvidence, match="too many image records") as caught:
        boot_plan_from_log(log, limits)
    assert (caught.value.finding_id, caught.value.seen) == ("plan.image", "2000")


@pytest.mark.parametrize("name", sorted(set(LEGITIMATE_OR_JUDGED_LATER) - {"39-doc-layout-vmversion"}))
def test_logs_that_are_judged_later_give_a_plan(name):
    log = parse_tcg_log((HOSTILE / f"{name}.bin").read_bytes(), LogKind.VMM)
    plan = boot_plan_from_log(log)
    check_vmm_records(log)
    if name == "40-lpa2-flag":
        assert (plan.create.params.flags, plan.create.params.s2sz) == (RealmFlags.LPA2, 52)


# One rule each


@pytest.mark.parametrize(
    ("records", "finding"),
    [
        ([], "plan.realm-create"),
        ([vm_version()], "plan.realm-create"),
        ([blob(b"KERNEL"), create()], "plan.realm-create"),
        ([ripas(), create()], "plan.realm-create"),
        ([rec(), create()], "plan.realm-create"),
        ([log_area(), create()], "plan.realm-create"),
        ([create(), create()], "plan.realm-create"),
        ([create(), rec(), create()], "plan.realm-create"),
        ([create(), vm_version()], "plan.vm-version"),
        ([vm_version(), vm_version(), create()], "plan.vm-version"),
        ([vm_version(cpus=0), create()], "plan.vm-version"),
        ([vm_version(cpus=513), create()], "plan.vm-version"),
        ([vm_version(ram=0), create()], "plan.vm-version"),
        ([vm_version(ram=(1 << 64) - 4096), create()], "plan.vm-version"),
        ([vm_version(name=b"\x1b[2J"), create()], "log.event-data"),
        ([create(s2sz=31)], "plan.parameters"),
        ([create(s2sz=49)], "plan.parameters"),
        ([create(s2sz=53, flags=RealmFlags.LPA2)], "plan.parameters"),
        ([create(num_bps=0)], "plan.parameters"),
        ([create(num_wps=0)], "plan.parameters"),
        ([create(num_bps=64)], "plan.parameters"),
        ([create(num_wps=255)], "plan.parameters"),
        ([create(flags=RealmFlags.SVE, sve_vl=16)], "plan.parameters"),
        ([create(flags=RealmFlags.PMU, pmu_num_ctrs=32)], "plan.parameters"),
        ([create(hash_algo=3)], "plan.parameters"),
        ([create(hash_algo=1)], "plan.hash-algorithm"),
        ([tag(1, bytes(13))], "log.event-data"),
        ([create(), tag(2, bytes(15))], "log.event-data"),
        ([create(), tag(3, bytes(81))], "log.event-data"),
        ([create(), tag(4, b"")], "log.event-type"),
        ([create(), tag(0x4141454C, b"AAEL")], "log.event-type"),
        ([create(), ripas(size=0)], "plan.ripas"),
        ([create(), ripas(base=RAM + 1)], "plan.ripas"),
        ([create(), ripas(size=PAGE + 1)], "plan.ripas"),
        ([create(), ripas(base=1 << 40)], "plan.ripas"),
        ([create(), ripas(base=(1 << 40) - PAGE, size=2 * PAGE)], "plan.ripas"),
        ([create(), ripas(base=(1 << 64) - PAGE, size=2 * PAGE)], "plan.ripas"),
        ([create(), ripas(size=PAGE), ripas(size=PAGE)], "plan.ripas"),
        ([create(), ripas(base=RAM + PAGE, size=PAGE), ripas(size=PAGE)], "plan.ripas"),
        ([create(s2sz=34), ripas(base=PAGE, size=(1 << 33) - PAGE)] * 1 + [ripas(base=0, size=PAGE)], "plan.ripas"),
        ([create(), blob(b"KERNEL", size=0)], "plan.image"),
        ([create(), blob(b"KERNEL", base=(1 << 40) - 1, size=2)], "plan.image"),
        ([create(), blob(b"KERNEL", base=(1 << 64) - 1, size=2)], "plan.image"),
        ([create(), blob(b"KERNEL", base=1 << 41)], "plan.image"),
        ([create(), blob(b"KERNEL"), blob(b"KERNEL", base=RAM + MIB)], "plan.image"),
        ([create(), blob(b"INITRD"), blob(b"INITRD\0", base=RAM + MIB)], "plan.image"),
        ([create(), blob(b"DTB\0"), blob(b"DTB", base=RAM + MIB)], "plan.image"),
        ([create(), blob(b"FIRMWARE", event_type=0x8000000A), blob(b"FIRMWARE", base=RAM + MIB)], "plan.image"),
        ([create(), log_area(size=0)], "plan.log-area"),
        ([create(), log_area(size=68 * 1024)], "plan.log-area"),
        ([create(), log_area(base=RAM + 1)], "plan.log-area"),
        ([create(), log_area(size=PAGE + 1)], "plan.log-area"),
        ([create(), log_area(base=(1 << 40) - PAGE)], "plan.log-area"),
        ([create(), log_area(), log_area(base=RAM)], "plan.log-area"),
        ([create(), blob(b"LOG", size=PAGE)], "plan.log-area"),
        ([create(), blob(b"LOG", size=PAGE, digests={SHA256: bytes(32)})], "plan.log-area"),
        ([create(), record(0x13, {SHA256: DIGEST}, b"\x06KERNEL")], "log.event-data"),
    ],
)  # fmt: skip
def test_contradiction_is_refused(records, finding):
    assert refused(*records).finding_id == finding


@pytest.mark.parametrize("name", [b"KERNEL", b"INITRD", b"DTB", b"", b"LOG2", b"log", b" LOG", b"\0LOG", b"LOG\0X"])
def test_image_without_a_digest_is_never_unmeasured_data(name):
    """T1: the RIM of a realm with an unmeasured kernel would match if such a record were replayed as it says."""
    assert refused(create(), blob(name, digests={})).finding_id == "plan.unmeasured"


@pytest.mark.parametrize(
    ("records", "limits", "finding"),
    [
        ([blob(b"A"), blob(b"B")], Limits(image_records=1), "plan.image"),
        ([ripas(size=PAGE), ripas(RAM + PAGE, PAGE)], Limits(ripas_records=1), "plan.ripas"),
        ([ripas(size=3 * PAGE)], Limits(ripas_entries=2), "plan.ripas"),
        ([ripas(size=PAGE), ripas(RAM + PAGE, 2 * PAGE)], Limits(ripas_entries=2), "plan.ripas"),
        ([blob(b"A", size=3 * PAGE)], Limits(plan_granules=2), "plan.granules"),
        ([blob(b"A", size=2), blob(b"B", base=RAM + 8191, size=2)], Limits(plan_granules=2), "plan.granules"),
        ([log_area(size=3 * PAGE)], Limits(plan_granules=2), "plan.granules"),
        ([log_area(size=3 * PAGE)], Limits(unmeasured_bytes=2 * PAGE), "plan.log-area"),
        ([rec(), rec()], Limits(recs=1), "plan.rec"),
        ([rec(flags=0), rec(flags=0)], Limits(recs=1), "plan.rec"),
    ],
)  # fmt: skip
def test_named_limits(records, limits, finding):
    plan_of(create(), *records[:-1], limits=limits)
    assert refused(create(), *records, limits=limits).finding_id == finding


def test_a_ram_of_2_to_the_51_bytes_is_counted_not_walked():
    error = refused(create(s2sz=52, flags=RealmFlags.LPA2), ripas(base=PAGE, size=(1 << 51) - 2 * PAGE), limits=Limits(ripas_entries=5000))
    assert (error.finding_id, error.seen) == ("plan.ripas", "7160")


def test_image_names_in_errors_cannot_reach_a_terminal():
    assert refused(create(), blob(b"\x1b[2J", digests={})).message.isprintable()


# Fragments, for display


def test_fragment_without_realm_create_is_checked_but_gives_no_plan():
    log = parse_tcg_log((LOGS / "cca" / "realm-bootlog.bin").read_bytes(), LogKind.VMM)
    check_vmm_records(log)
    with pytest.raises(MalformedEvidence) as caught:
        boot_plan_from_log(log)
    assert caught.value.finding_id == "plan.realm-create"


@pytest.mark.parametrize(
    ("records", "finding"),
    [
        ([ripas()], "plan.realm-create"),
        ([rec()], "plan.realm-create"),
        ([blob(b"KERNEL", digests={})], "plan.unmeasured"),
        ([blob(b"KERNEL", base=1 << 51)], "plan.image"),
        ([blob(b"KERNEL"), blob(b"KERNEL")], "plan.image"),
        ([log_area(size=1 << 62)], "plan.log-area"),
        ([blob(b"KERNEL"), vm_version()], "plan.vm-version"),
    ],
)  # fmt: skip
def test_fragments_keep_the_rules(records, finding):
    log = parse_tcg_log(log_of(*records), LogKind.VMM)
    with pytest.raises(MalformedEvidence) as caught:
        check_vmm_records(log)
    assert caught.value.finding_id == finding


# Properties

any_record = st.one_of(
    st.builds(ripas, st.integers(0, 1 << 42), st.integers(0, 1 << 42)),
    st.builds(lambda page, pages: ripas(page * PAGE, pages * PAGE), st.integers(0, 1 << 20), st.integers(0, 600)),
    st.builds(rec, st.integers(0, 3), st.integers(0, (1 << 64) - 1)),
    st.builds(blob, st.binary(max_size=8), st.integers(0, 1 << 41), st.integers(0, 1 << 20)),
    st.builds(log_area, st.integers(0, 1 << 20).map(lambda page: page * PAGE), st.sampled_from([0, PAGE, 64 * 1024, 128 * 1024])),
    st.builds(create, s2sz=st.integers(0, 255)),
    st.builds(vm_version, st.integers(0, 600)),
    st.builds(tag, st.integers(0, 5), st.binary(max_size=90)),
)  # fmt: skip


@given(st.lists(any_record, max_size=6))
def test_any_records_give_a_bounded_plan_or_are_refused(records):
    limits = Limits()
    finding = "plan.realm-create"
    try:
        plan = plan_of(create(), *records)
    except MalformedEvidence as error:
        finding = error.finding_id
    else:
        top = 1 << (plan.create.params.s2sz - 1)
        assert len(plan.images) <= limits.image_records
        assert all(step.base + step.size <= top for step in plan.steps if not isinstance(step, RecRecord))
        assert list(plan.ripas) == sorted(plan.ripas, key=lambda item: item.base)
        assert plan.log_area is None or plan.log_area.size <= limits.unmeasured_bytes
    assert finding in CATALOGUE


@given(st.binary(max_size=200))
def test_any_bytes_behind_a_realm_create_are_refused_or_read(data):
    finding = "plan.realm-create"
    try:
        boot_plan_from_log(parse_tcg_log(log_of(create()) + data, LogKind.VMM))
    except MalformedEvidence as error:
        finding = error.finding_id
    assert finding in CATALOGUE
