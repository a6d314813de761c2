"""Rules that are learnt from a boot: they let just that boot in, under the real judge."""

import random
from dataclasses import replace

import pytest
from measured_boot import LOGS, MAPPING, NAMES, MeasuredBoot, RuntimeStage, blob, digests_of, pe, read
from stage import Stage, Vm, error_ids

from kbs_rim.appraisal.event_classes import EventClass
from kbs_rim.appraisal.learned_review import warnings_of
from kbs_rim.appraisal.reference_boot import Boot, Choices, Learned, learn
from kbs_rim.appraisal.registered_image import ImageState
from kbs_rim.appraisal.rule_values import Role
from kbs_rim.appraisal.runtime_logs import RuntimeLog, in_rems
from kbs_rim.appraisal.runtime_workload import LogRule
from kbs_rim.errors import InvalidDocument, MalformedEvidence
from kbs_rim.evidence.event_log import EventLog, ImaTemplate, LogFormat, MeasuredEvent, RegisterKind, TcgContent
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.evidence.log_label import LogLabel, parse_label
from kbs_rim.evidence.tcg_names import EV_EFI_VARIABLE_AUTHORITY
from kbs_rim.measurement.rem import replay_rems

SHA256, SHA384 = HashAlgorithm.SHA256, HashAlgorithm.SHA384
TPM, CC = parse_label("tpm"), parse_label("cc")
PCRS = LogRule(kind="tpm", pcr_mapping=MAPPING)
CCELS = [path for path in sorted((LOGS / "ccel").iterdir()) if "table" not in path.name and path.name != "CCEL_data_csv"]
UNKNOWN = {"arm64-shim-grub2.06-secureboot": {23, 24}, "arm64-uki-direct-edk2-2026.08-systemd-262": {36}}
"""Events of the boots that nothing explains: shim's lists by their contents, and an SMBIOS structure of the machine."""


def boot_of(measured: MeasuredBoot, **changes) -> Boot:
    log = RuntimeLog(TPM, read("tpm", measured.log))
    return replace(Boot(logs=[(PCRS, log)], algorithm=SHA256, images=measured.images), **changes)


def taught(measured: MeasuredBoot, **choices) -> Learned:
    return learn(boot_of(measured), Choices(command_lines=(measured.command_line,), **choices))


@pytest.fixture(params=NAMES)
def measured(request) -> MeasuredBoot:
    return MeasuredBoot(request.param)


def test_all_of_a_measured_boot_is_learnt_but_what_nobody_can_know(measured):
    learned = taught(measured)
    assert {lesson.event.event.number for lesson in learned.unexplained} == UNKNOWN.get(measured.name, set())
    assert learned.complete == (measured.name not in UNKNOWN)
    assert learned.problems == () or not learned.complete
    assert all("--accept-unknown" in lesson.advice for lesson in learned.unexplained)
    assert learned.rems == ["log", "log", "log", "zero"]
    assert {image.id for image in learned.images} == {image.id for image in measured.images}


def test_what_was_learnt_lets_the_same_boot_in(measured):
    """As a realm: replayed from the token's REMs, judged with everything else."""
    learned = taught(measured, accept_unknown=True)
    assert learned.complete
    verdict = RuntimeStage(learned.table, [("tpm", measured.log)], measured.images, rems=learned.rems).judge()
    assert error_ids(verdict) == set()
    assert verdict.allowed


def test_unknown_digests_are_learnt_only_when_asked_and_required_then(measured):
    assert not [rule for rule in taught(measured).table.get("digests", ()) if rule["comment"].startswith("accepted")]
    named = taught(measured, accept_unknown=True).table.get("digests", [])
    assert len(named) == len(UNKNOWN.get(measured.name, set()))
    assert all(rule["required"] and rule["comment"].startswith("accepted unknown") for rule in named)


def verdict_on(learned: Learned, label: LogLabel, rule: LogRule, log: EventLog, images, algorithm=SHA256):
    """What the judge says of a realm that truly measured ``log``, by rules that were learnt of another boot."""
    from kbs_rim.appraisal.measured_images import MeasuredImages
    from kbs_rim.appraisal.reference_boot import _claims
    from kbs_rim.appraisal.runtime_logs import EventReader, RuntimeLogs
    from kbs_rim.appraisal.runtime_rules import judge_runtime
    from kbs_rim.appraisal.workload import parse_workload
    from kbs_rim.limits import DEFAULT_LIMITS

    workload = parse_workload({**Stage().workload.model_dump(mode="json"), "realm": {"rems": learned.rems}, "runtime": learned.table})
    values = replay_rems(in_rems(log, rule), algorithm)
    claims = _claims(algorithm, values)
    logs = RuntimeLogs((RuntimeLog(label, log),))
    opinion = judge_runtime(claims, workload, logs, MeasuredImages(images), EventReader(algorithm), DEFAULT_LIMITS)
    return {finding.id for finding in opinion.findings if finding.severity.value == "error"}


def test_any_event_with_another_digest_is_refused(measured):
    """Whatever a boot measures instead of one of these events, the rules that were learnt do not let it in."""
    learned = taught(measured, accept_unknown=True)
    log = read("tpm", measured.log)
    chance = random.Random(measured.name)
    for place, event in enumerate(log.events):
        if not event.measured:
            continue
        changed = replace(event, digests={SHA256.tpm_id: chance.randbytes(32)})
        other = replace(log, events=(*log.events[:place], changed, *log.events[place + 1 :]))
        found = verdict_on(learned, TPM, PCRS, other, measured.images)
        assert found & {"rem.event-unknown", "rem.event-data"}, event


def test_any_text_with_another_byte_is_refused(measured):
    """The log tells the truth of it: its data have the digest. Words of the log cannot make it good."""
    learned = taught(measured, accept_unknown=True)
    log = read("tpm", measured.log)
    chance = random.Random(measured.name)
    for place, event in enumerate(log.events):
        content = event.content
        if not isinstance(content, TcgContent) or event.digests.get(SHA256.tpm_id) != SHA256.digest(content.data):
            continue
        data = bytearray(content.data)
        # authorities are contents whatever the variable's name, which no firmware chooses
        first = len(data) - 16 if content.type == EV_EFI_VARIABLE_AUTHORITY else 0
        data[chance.randrange(first, len(data))] ^= chance.randrange(1, 256)
        changed = replace(event, content=TcgContent(content.type, bytes(data)), digests={SHA256.tpm_id: SHA256.digest(bytes(data))})
        other = replace(log, events=(*log.events[:place], changed, *log.events[place + 1 :]))
        assert verdict_on(learned, TPM, PCRS, other, measured.images), (event, bytes(data))


def test_a_boot_without_what_was_learnt_as_required_is_refused(measured):
    """Images of each role, the command line, Secure Boot's variables, accepted digests: each is missed if all events of it are gone."""
    learned = taught(measured, accept_unknown=True)
    log = read("tpm", measured.log)
    required = {
        lesson.key for lesson in learned.lessons if lesson.key and lesson.key.startswith(("images", "command_line", "secure_boot."))
    }
    for key in (required | {"digests"}) - {"secure_boot.authorities"}:
        gone = {lesson.event.event.number for lesson in learned.lessons if lesson.key == key}
        if not gone:
            continue
        other = replace(log, events=tuple(event for event in log.events if event.number not in gone))
        assert verdict_on(learned, TPM, PCRS, other, measured.images) & {"rem.image-missing", "rem.event-missing"}, key


@pytest.mark.parametrize("path", CCELS, ids=lambda path: path.name)
def test_a_real_ccel_is_learnt(path):
    """Of machines whose images nobody here has: what is unknown is listed, and with the flag it becomes digests that let the boot in."""
    boot = Boot(logs=[(LogRule(kind="cc"), RuntimeLog(CC, read("cc", path.read_bytes())))], algorithm=SHA384)
    learned = learn(boot)
    assert not learned.complete
    assert all(lesson.kind in (EventClass.UNKNOWN, EventClass.REFUSED) for lesson in learned.unexplained)
    accepted = learn(boot, Choices(accept_unknown=True))
    assert accepted.complete
    assert {rule["digest"] for rule in accepted.table["digests"]} >= {lesson.event.digest.hex() for lesson in learned.unexplained}
    vm = Stage().vm
    stage = Stage(vm=_Sha384Vm(vm.vmm, vm.boot, vm.files))
    verdict = RuntimeStage(
        accepted.table, [("cc", path.read_bytes())], rems=accepted.rems, stage=stage, algorithm=SHA384, mapping="refuse"
    ).judge()
    assert error_ids(verdict) == set()


@pytest.mark.parametrize("path", CCELS, ids=lambda path: path.name)
def test_a_real_ccel_with_any_other_digest_is_refused(path):
    rule, log = LogRule(kind="cc"), read("cc", path.read_bytes())
    learned = learn(Boot(logs=[(rule, RuntimeLog(CC, log))], algorithm=SHA384), Choices(accept_unknown=True))
    chance = random.Random(path.name)
    for place, event in chance.sample([(at, event) for at, event in enumerate(log.events) if event.measured], 5):
        changed = replace(event, digests={SHA384.tpm_id: chance.randbytes(48)})
        other = replace(log, events=(*log.events[:place], changed, *log.events[place + 1 :]))
        assert verdict_on(learned, CC, rule, other, (), SHA384) & {"rem.event-unknown", "rem.event-data"}, event


class _Sha384Vm(Vm):
    @property
    def definition(self):
        from kbs_rim.measurement.vmm.profile import HostParameters

        return replace(super().definition, host=HostParameters(hash_algorithm=SHA384))


# --- choices ----------------------------------------------------------------------------------------------------------


def test_parameters_instead_of_the_exact_command_line():
    measured = MeasuredBoot("arm64-direct-edk2-2026.08")
    learned = learn(boot_of(measured), Choices(parameters={"required": ["panic=-1"], "allowed": ["*"], "forbidden": ["init=*"]}))
    assert learned.table.get("command_line", {}).get("exact") is None
    # the log has a digest of the line only, and nobody gave the line
    assert [lesson.advice.split(";")[0] for lesson in learned.unexplained] == ["give the kernel's command line with --command-line"]
    path = LOGS / "ccel" / "CCEL_AAEL_alibabacloud"
    boot = Boot(logs=[(LogRule(kind="cc"), RuntimeLog(CC, read("cc", path.read_bytes())))], algorithm=SHA384)
    rules = {"required": ["ro"], "allowed": ["*"]}
    learned = learn(boot, Choices(parameters=rules, accept_unknown=True))
    assert learned.complete
    assert learned.table["command_line"] == {**rules, "measured_by": "boot-loader"}


def test_loose_keys_are_any_only_where_there_was_something(measured):
    learned = taught(measured, loose=frozenset({"boot-variables", "partition-tables", "authorities", "ima"}), accept_unknown=True)
    strict = taught(measured, accept_unknown=True)
    assert learned.complete
    assert learned.table["boot_variables"] == "any"
    assert (learned.table["partition_tables"] == "any") == (strict.table["partition_tables"] != "refuse")
    assert "ima" not in learned.table
    assert any("boot_variables is any" in text for text in warnings_of(learned))
    assert not any("boot_variables is any" in text for text in warnings_of(strict))


def test_signed_rems_must_be_those_of_the_log():
    measured = MeasuredBoot(NAMES[0])
    values = learn(boot_of(measured), Choices(accept_unknown=True)).values
    assert learn(boot_of(measured, signed=values)).values == values
    for rem in range(3):
        moved = (*values[:rem], bytes([1]) * 32, *values[rem + 1 :])
        for choices in (Choices(), Choices(accept_unknown=True)):
            with pytest.raises(MalformedEvidence, match=f"REM{rem}") as caught:
                learn(boot_of(measured, signed=moved), choices)
            assert caught.value.finding_id == "rem.replay"


def test_a_register_that_no_log_explains_is_its_value_or_nothing():
    measured = MeasuredBoot(NAMES[0])
    line = (measured.command_line,)
    moved = (*learn(boot_of(measured)).values[:3], bytes([1]) * 32)
    with pytest.raises(MalformedEvidence, match="REM3") as caught:
        learn(boot_of(measured, signed=moved), Choices(command_lines=line))
    assert caught.value.finding_id == "rem.unexplained"
    learned = learn(boot_of(measured, signed=moved), Choices(command_lines=line, accept_unknown=True))
    assert learned.complete
    assert learned.rems == ["log", "log", "log", ["01" * 32]]
    assert any("no log explains REM3" in text for text in warnings_of(learned))


def test_pcrs_are_not_mapped_unless_somebody_says_how():
    measured = MeasuredBoot(NAMES[0])
    with pytest.raises(MalformedEvidence) as caught:
        learn(boot_of(measured, logs=[(LogRule(kind="tpm"), RuntimeLog(TPM, read("tpm", measured.log)))]))
    assert caught.value.finding_id == "rem.numbering"


def test_a_log_without_events_teaches_nothing():
    log = replace(read("tpm", MeasuredBoot(NAMES[0]).log), events=())
    with pytest.raises(MalformedEvidence) as caught:
        learn(Boot(logs=[(PCRS, RuntimeLog(TPM, log))], algorithm=SHA256))
    assert caught.value.finding_id == "rem.unexplained"


def test_a_revoked_image_is_never_learnt():
    measured = MeasuredBoot("arm64-uki-direct")
    images = [replace(image, state=ImageState.REVOKED) if Role.UKI in image.roles else image for image in measured.images]
    learned = learn(boot_of(measured, images=images), Choices(accept_unknown=True))
    assert not learned.complete
    assert any("revoked" in lesson.advice for lesson in learned.unexplained)
    assert not [rule for rule in learned.table["images"] if rule["role"] == "uki"]


# --- single events ----------------------------------------------------------------------------------------------------


def log_of(*items: tuple[int, int, bytes, bytes]) -> EventLog:
    """A log of measurement registers: (REM, type, event data, hashed bytes)."""
    events = tuple(
        MeasuredEvent(
            number, rem + 1, RegisterKind.MR, f"type {kind}", {SHA256.tpm_id: SHA256.digest(hashed)}, TcgContent(kind, data), True
        )
        for number, (rem, kind, data, hashed) in enumerate(items)
    )
    return EventLog(LogFormat.CC, RegisterKind.MR, events)


def learn_of(*items, images=(), **choices) -> Learned:
    boot = Boot(logs=[(LogRule(kind="cc"), RuntimeLog(CC, log_of(*items)))], algorithm=SHA256, images=images)
    return learn(boot, Choices(**choices))


def grub(text: str, prefix: str = "grub_cmd: ") -> tuple[int, int, bytes, bytes]:
    return 2, 0x0D, f"{prefix}{text}\0".encode(), text.encode()


def test_attack_a_star_in_a_learnt_text_is_no_pattern():
    learned = learn_of(grub("echo *"), grub("set a=b"))
    assert learned.complete
    assert learned.table["grub_commands"] == ["set a=b"]
    assert [rule["comment"] for rule in learned.table["digests"]] == ["text of a boot loader: echo *"]


def test_attack_what_grub_gives_a_module_becomes_no_command_line_of_the_kernel():
    learned = learn_of(grub("/vmlinuz quiet", "kernel_cmdline: "), grub("/initrd init=/bin/sh", "module_cmdline: "))
    assert learned.complete
    assert learned.table["command_line"] == {"exact": ["quiet"], "measured_by": "boot-loader"}
    assert [rule["comment"] for rule in learned.table["digests"]] == ["module, /initrd init=/bin/sh"]


def test_load_options_with_grubs_parameter_in_front():
    line = "BOOT_IMAGE=/vmlinuz quiet"
    event = (2, 6, b"LOADED_IMAGE::LoadOptions\0", line.encode("utf-16-le"))
    learned = learn_of(grub("/vmlinuz quiet", "kernel_cmdline: "), event)
    assert learned.complete
    assert learned.table["command_line"] == {"exact": ["quiet"]}
    alone = learn_of(event, command_lines=(line,))
    assert alone.complete
    assert alone.table["command_line"] == {"exact": [line]}
    assert not learn_of(event).complete


def test_the_separator_of_an_error_is_never_learnt_by_itself():
    learned = learn_of((0, 4, b"\1\0\0\0", b"\1\0\0\0"))
    assert not learned.complete
    assert "met an error" in learned.unexplained[0].advice


def test_what_was_measured_behind_the_boot_is_not_required():
    """Firmware had handed over: whoever measured the digest then, it did not start the realm."""
    exit_ = b"Exit Boot Services Invocation"
    learned = learn_of((1, 0x80000007, exit_, exit_), (1, 5, b"unknown", b"something else"), accept_unknown=True)
    assert learned.complete
    assert [rule["required"] for rule in learned.table["digests"]] == [False]


def test_a_boot_loader_that_cannot_have_started_the_realm_is_not_required():
    loader = pe("loader", Role.BOOT_LOADER, authenticode=digests_of(b"loader"))
    calling, returning = b"Calling EFI Application from Boot Option", b"Returning from EFI Application from Boot Option"
    events = [(1, 0x80000003, bytes(32), b"loader"), *((1, 0x80000007, text, text) for text in (calling, returning))]
    learned = learn_of(*events, images=(loader,))
    assert learned.complete
    assert learned.table["images"] == [{"role": "boot-loader", "images": [loader.id], "required": False}]
    assert any("not when they could have started this realm" in text for text in warnings_of(learned))


def test_more_texts_than_a_list_takes_become_digests():
    learned = learn_of(*(grub(f"set a={number}") for number in range(300)))
    assert learned.complete
    assert (len(learned.table["grub_commands"]), len(learned.table["digests"])) == (256, 44)
    with pytest.raises(InvalidDocument, match="no rules can be made of this boot"):
        learn_of(*(grub(f"set a={number}") for number in range(1400)))


def test_a_short_variable_is_named_by_the_whole_event():
    name = "AuditMode".encode("utf-16-le")
    guid = bytes.fromhex("61dfe48bca93d211aa0d00e098032b8c")
    event = guid + (9).to_bytes(8, "little") + (1).to_bytes(8, "little") + name + b"\0"
    learned = learn_of((0, 0x80000001, event, event))
    assert learned.complete
    assert learned.table["secure_boot"]["authorities"] == "refuse"
    assert learned.table["digests"][0]["comment"] == "variable AuditMode"


def test_the_device_tree_that_the_rim_covers_needs_no_rule():
    tree = blob("tree", Role.DEVICE_TREE)
    log = log_of((0, 0x10, b"Kvmtool FDT.", b"tree"))
    boot = Boot(logs=[(LogRule(kind="cc"), RuntimeLog(CC, log))], algorithm=SHA256, loaded={SHA256.digest(b"tree"): tree})
    learned = learn(boot)
    assert learned.complete
    assert "images" not in learned.table
    assert learned.lessons[0].key == "covered by the RIM"


def test_a_section_is_learnt_of_the_uki_that_was_started():
    measured = MeasuredBoot("arm64-uki-direct")
    own = next(image for image in measured.images if Role.UKI in image.roles)
    twin = pe("another UKI with the same sections", Role.UKI, authenticode=blob("x").measurements.digests, uki=own.measurements.pe.uki)
    for images in ((twin, *measured.images), (*measured.images, twin)):
        learned = learn(boot_of(measured, images=images))
        assert next(rule["images"] for rule in learned.table["images"] if rule["role"] == "uki") == [own.id]


def test_files_that_ima_measured():
    entries = []
    for number, (path, digest) in enumerate((("boot_aggregate", b"\1" * 32), ("/bin/a", b"\2" * 32), ("/bin/a*", b"\3" * 32))):
        fields = (b"sha256:\0" + digest, path.encode() + b"\0")
        data = b"".join(len(field).to_bytes(4, "little") + field for field in fields)
        entries.append(
            MeasuredEvent(number, 10, RegisterKind.PCR, "ima-ng", {SHA256.tpm_id: SHA256.digest(data)}, ImaTemplate("ima-ng", data), True)
        )
    log = EventLog(LogFormat.IMA, RegisterKind.PCR, tuple(entries))
    boot = Boot(logs=[(LogRule(kind="ima", pcr_mapping="uefi"), RuntimeLog(parse_label("ima"), log))], algorithm=SHA256)
    learned = learn(boot)
    assert learned.complete
    assert learned.table["ima"] == {"files": [{"path": "/bin/a", "digests": ["02" * 32]}], "boot_aggregate": True}
    assert len(learned.table["digests"]) == 1
    assert learn(boot, Choices(loose=frozenset({"ima"}))).table["ima"] == {"mode": "any", "boot_aggregate": True}


# --- the review -------------------------------------------------------------------------------------------------------


def test_the_review_says_what_to_think_about():
    measured = MeasuredBoot("arm64-direct-edk2-2026.08")
    texts = "\n".join(warnings_of(taught(measured), registered=[]))
    assert "Secure Boot is off" in texts
    assert "rdinit=/init" in texts
    assert "is not registered: kbs-rim image add FILE --role kernel" in texts
    assert "no program" not in texts
    bare = "\n".join(warnings_of(learn_of(grub("set a=b"))))
    assert "no program that the firmware started is known" in bare
    assert "Secure Boot was not measured" in bare
    assert "no command line was measured" in bare
    assert "nothing was measured into REM0" in bare
    accepted = "\n".join(warnings_of(taught(MeasuredBoot("arm64-shim-grub2.06-secureboot"), accept_unknown=True)))
    assert "2 events in REM2 are let in by bare digests" in accepted
    assert "Secure Boot is off" not in accepted
