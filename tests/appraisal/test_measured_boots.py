"""Real boots as realms: every event is explained as its oracle says, and a workload made from the oracle lets exactly that in."""

import random
from dataclasses import replace

import pytest
from measured_boot import NAMES, MeasuredBoot, RuntimeStage, read
from stage import error_ids

from kbs_rim.appraisal.event_classes import ClassifiedEvent, EventClass, classify_events
from kbs_rim.appraisal.measured_images import MeasuredImages
from kbs_rim.appraisal.runtime_logs import EventReader, digests_to_look_up, in_rems, read_runtime_logs
from kbs_rim.appraisal.runtime_workload import RuntimeRules
from kbs_rim.evidence.envelope import Evidence
from kbs_rim.evidence.event_log import TcgContent
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.evidence.log_label import parse_label
from kbs_rim.evidence.tcg_names import EVENT_TYPES
from kbs_rim.limits import DEFAULT_LIMITS

SOURCES = (
    ("H(event data)", {EventClass.EXPECTED, EventClass.CONSTANT}),
    ("H(whole UEFI_VARIABLE_DATA)", {EventClass.EXPECTED}),
    ("H(variable data only)", {EventClass.EXPECTED}),
    ("H(ASCII section name", {EventClass.CONSTANT}),
    ("H(one byte 01)", {EventClass.CONSTANT}),
    ("H(first min(VirtualSize", {EventClass.IMAGE}),
    ("Authenticode of ", {EventClass.IMAGE}),
    ("H(qemu-efi-aarch64", {EventClass.IMAGE}),
    ("H(fw_cfg file", {EventClass.IMAGE}),
    ("H(UTF-16LE of ", {EventClass.EXPECTED}),
    ("H(test initrd", {EventClass.IMAGE}),
    ("H(.ucode + test initrd", {EventClass.IMAGE}),
    ("H(EFI_SIGNATURE_LIST of", {EventClass.NAMED}),
    ("H(deauthorized part of", {EventClass.NAMED}),
)
"""What stands in an oracle's ``source`` -> how we may know the digest."""


@pytest.fixture(params=NAMES)
def boot(request) -> MeasuredBoot:
    return MeasuredBoot(request.param)


def stage_of(boot: MeasuredBoot, **changes) -> RuntimeStage:
    return RuntimeStage({**boot.table(), **changes}, [("tpm", boot.log)], boot.images)


def classified(boot: MeasuredBoot, algorithm: HashAlgorithm, log=None, **changes) -> tuple[ClassifiedEvent, ...]:
    rules = RuntimeRules.model_validate({**boot.table(algorithm), **changes})
    mapped = in_rems(log or read("tpm", boot.log), rules.logs[0])
    events = EventReader(algorithm).events(mapped, parse_label("tpm"), range(4))
    return classify_events(events, rules, MeasuredImages(boot.images), algorithm, DEFAULT_LIMITS)


def test_a_measured_boot_is_let_in(boot):
    verdict = stage_of(boot).judge()
    assert [finding.to_document() for finding in verdict.findings if finding.severity.value == "error"] == []
    assert verdict.allowed
    assert sum(verdict.facts["runtime"]["events"]) == len(boot.events)
    assert {image.id for image in boot.images} <= set(verdict.facts["images"])


@pytest.mark.parametrize("algorithm", HashAlgorithm)
def test_every_event_is_explained_as_the_oracle_says(boot, algorithm):
    found = classified(boot, algorithm)
    assert len(found) == len(boot.events)
    for said, event in zip(boot.events, found, strict=True):
        allowed = (
            {EventClass.NAMED} if said["source"] is None else next(kinds for start, kinds in SOURCES if said["source"].startswith(start))
        )
        assert event.kind in allowed, (said, event.what)
        assert event.objection is None


def test_no_key_of_the_workload_is_idle(boot):
    """Without any one of its keys the same boot is refused: nothing else lets in what that key does.

    The empty version of Debian 12's firmware is two zero bytes, and so is a BootOrder of Boot0000 alone.
    """
    table = boot.table()
    for key in [key for key, value in table.items() if value and value != [""] and key not in ("logs", "separators", "secure_boot")]:
        verdict = stage_of(boot, **{key: RuntimeRules.model_fields[key].get_default(call_default_factory=True)}).judge()
        assert error_ids(verdict) <= {"rem.event-unknown", "rem.event-refused", "rem.image-unexpected", "rem.command-line"}, key
        assert not verdict.allowed, key


def test_only_digests_that_the_log_does_not_explain_are_looked_up(boot):
    rules = RuntimeRules.model_validate(boot.table())
    logs = read_runtime_logs(Evidence(b"x", [(parse_label("tpm"), boot.log)]), [rules], DEFAULT_LIMITS)
    wanted = {digest for _, digest in digests_to_look_up(logs, HashAlgorithm.SHA256)}
    assert wanted == {
        bytes.fromhex(event["digests"]["sha256"])
        for event in boot.events
        if event["source"] is None or not event["source"].startswith(("H(event", "H(whole", "H(variable", "H(ASCII", "H(one"))
    }


def test_a_label_never_lets_anything_in(boot):
    """Every type on every event: what one label is refused for, no other one lets in; what is let in, is so under any."""
    log = read("tpm", boot.log)
    strict = {"command_line": None, "boot_variables": "refuse", "partition_tables": "refuse", "images": [], "digests": [], "actions": []}
    honest = classified(boot, HashAlgorithm.SHA256, **strict)
    chance = random.Random(1)
    for _ in range(8):
        events = tuple(
            replace(event, content=TcgContent(chance.choice(list(EVENT_TYPES)), event.content.data), type_name="") for event in log.events
        )
        found = classified(boot, HashAlgorithm.SHA256, replace(log, events=events), **strict)
        assert [event.kind for event in found] == [event.kind for event in honest]


def test_data_of_another_event_never_let_an_event_in(boot):
    """A host may swap texts between events as well; only what fits the digest counts."""
    log = read("tpm", boot.log)
    strict = {"command_line": None, "images": [], "digests": []}
    honest = classified(boot, HashAlgorithm.SHA256, **strict)
    refused = {EventClass.REFUSED, EventClass.UNKNOWN}
    for shift in (1, 5, 11):
        data = [event.content.data for event in log.events]
        events = tuple(
            replace(event, content=TcgContent(event.content.type, data[(number + shift) % len(data)]))
            for number, event in enumerate(log.events)
        )
        found = classified(boot, HashAlgorithm.SHA256, replace(log, events=events), **strict)
        assert [one.kind in refused or two.kind not in refused for one, two in zip(found, honest, strict=True)] == [True] * len(honest)


def test_every_cut_of_the_log_is_refused(boot):
    """Fewer events replay to other registers, and half a record is no log."""
    offsets = [event["offset"] for event in boot.oracle["events"]][5::7]
    for end in (*offsets, offsets[0] + 9):
        stage = stage_of(boot)
        stage.sent = [("tpm", boot.log[:end])]
        verdict = stage.judge()
        assert not verdict.allowed
        assert error_ids(verdict) <= {"rem.replay", "rem.unexplained", "rem.not-judged", "log.truncated"}
