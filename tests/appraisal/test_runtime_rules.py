"""REMs that logs explain: attacks on them, each named, and what must be there."""

import hashlib
import lzma
import struct
import time
from dataclasses import replace

import pytest
from log_forge import SHA256, SHA384, aael_record, cel_cbor, cel_json, cel_tlv, ima_fields, ima_ng, ima_record, tagged, tcg_log
from measured_boot import MeasuredBoot, RuntimeStage, blob, digests_of, extends_of, pe, read, with_logs
from stage import QEMU_FIRMWARE, Stage, error_ids

from kbs_rim.appraisal.registered_image import ImageState
from kbs_rim.appraisal.runtime_logs import MOST_LOOKED_UP, digests_to_look_up, read_runtime_logs
from kbs_rim.appraisal.runtime_workload import RuntimeRules
from kbs_rim.appraisal.workload import Role
from kbs_rim.evidence.envelope import Evidence
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.evidence.log_label import parse_label
from kbs_rim.limits import DEFAULT_LIMITS, Limits
from kbs_rim.measurement.uki import UkiFacts, UkiForm, UkiSection, load_options
from kbs_rim.realm.simulator import SimulatedRealm

SEPARATOR, ACTION, TAG, IPL = 0x4, 0x80000007, 0x6, 0xD
APPLICATION, DRIVER_CONFIG, BOOT_VARIABLE, AUTHORITY = 0x80000003, 0x80000001, 0x80000002, 0x800000E0
GLOBAL, SECURITY = (bytes.fromhex(text) for text in ("61dfe48bca93d211aa0d00e098032b8c", "cbb219d73a3d9645a3bcdad00e67656f"))
LINE = "console=ttyAMA0 root=/dev/vda1"
LOAD_OPTIONS = tagged(0x8F3B22ED, b"LOADED_IMAGE::LoadOptions\0")
INITRD_EVENT = tagged(0x8F3B22EC, b"Linux initrd\0")
NO_PATH = bytes(32)
"""UEFI_IMAGE_LOAD_EVENT without a device path."""


def variable(name: str, data: bytes, guid: bytes = GLOBAL) -> bytes:
    return struct.pack("<16sQQ", guid, len(name), len(data)) + name.encode("utf-16-le") + data


def wide(text: str) -> bytes:
    return text.encode("utf-16-le")


GRUB_CODE, KERNEL_CODE, INITRD = b"code of GRUB", b"code of the kernel", b"an initrd"
GRUB = pe("grubaa64.efi", Role.BOOT_LOADER, authenticode=digests_of(GRUB_CODE))
KERNEL = pe("vmlinuz", Role.KERNEL, authenticode=digests_of(KERNEL_CODE))
RAMDISK = blob("initrd.img", Role.INITRD, digests=digests_of(INITRD))
CONFIG = blob("grub.cfg", Role.BOOT_FILE, digests=digests_of(b"linux /vmlinuz"))
IMAGES = (GRUB, KERNEL, RAMDISK, CONFIG)
SECURE_ON, SECURE_OFF = variable("SecureBoot", b"\1"), variable("SecureBoot", b"\0")

Event = tuple[int, int, bytes, bytes | None]
BOOT: tuple[Event, ...] = (
    (1, 0x8, wide("2026.08\0"), None),
    (1, DRIVER_CONFIG, SECURE_ON, None),
    (1, SEPARATOR, bytes(4), None),
    (2, ACTION, b"Calling EFI Application from Boot Option", None),
    (2, SEPARATOR, bytes(4), None),
    (2, APPLICATION, NO_PATH, GRUB_CODE),
    (3, IPL, b"/EFI/debian/grub.cfg\0", b"linux /vmlinuz"),
    (3, IPL, b"grub_cmd: set root=hd0,gpt2\0", b"set root=hd0,gpt2"),
    (3, IPL, b"grub_cmd: linux /vmlinuz " + LINE.encode() + b"\0", b"linux /vmlinuz " + LINE.encode()),
    (2, APPLICATION, NO_PATH, KERNEL_CODE),
    (3, IPL, b"kernel_cmdline: /vmlinuz " + LINE.encode() + b"\0", b"/vmlinuz " + LINE.encode()),
    (3, IPL, b"/initrd.img\0", INITRD),
    (3, TAG, LOAD_OPTIONS, wide(f"BOOT_IMAGE=/vmlinuz {LINE}")),
    (3, TAG, INITRD_EVENT, INITRD),
    (2, ACTION, b"Exit Boot Services Invocation", None),
    (2, ACTION, b"Exit Boot Services Returned with Success", None),
)
"""A boot through GRUB as firmware with CC measurement registers logs it: (register, type, data, hashed bytes)."""
KINDS = {
    "version": 0, "secure-boot": 1, "separator-1": 2, "calling": 3, "grub": 5, "config": 6, "set": 7, "command": 8, "kernel": 9,
    "cmdline": 10, "initrd-file": 11, "options": 12, "initrd": 13,
}  # fmt: skip
TABLE = {
    "logs": [{"kind": "cc"}],
    "images": [{"role": image.roles[0].value, "images": [image.id]} for image in IMAGES],
    "command_line": {"required": ["root=/dev/vda1"], "allowed": ["console=ttyAMA0"]},
    "grub_commands": ["set root=hd0,gpt*", "linux /vmlinuz console=ttyAMA0 root=/dev/vda1"],
    "secure_boot": {"state": "on"},
    "firmware_versions": ["2026.*"],
    "separators": [0, 1],
}


def log_of(*events: Event, algorithm: int = SHA256) -> bytes:
    return tcg_log(algorithm, *events)


def changed(**events: Event) -> tuple[Event, ...]:
    """The boot with some events replaced."""
    boot = list(BOOT)
    for name, event in events.items():
        boot[KINDS[name.replace("_", "-")]] = event
    return tuple(boot)


def without(*names: str) -> tuple[Event, ...]:
    return tuple(event for number, event in enumerate(BOOT) if number not in {KINDS[name] for name in names})


def stage_of(*events: Event, **changes) -> RuntimeStage:
    return RuntimeStage({**TABLE, **changes}, [("cc", log_of(*(events or BOOT)))], IMAGES)


def ids(stage: RuntimeStage) -> set[str]:
    verdict = stage.judge()
    assert verdict.allowed == (not error_ids(verdict))
    return error_ids(verdict)


def test_an_honest_boot_is_let_in():
    verdict = stage_of().judge()
    assert error_ids(verdict) == set()
    facts = verdict.facts["runtime"]
    assert facts["logs"] == {"cc": 16}
    assert facts["events"] == [3, 6, 7, 0]
    assert facts["classes"] == {"constant": 2, "image": 5, "expected": 9}
    assert {(item["role"], item["rem"]) for item in facts["images"]} == {("boot-loader", 1), ("kernel", 1), ("boot-file", 2), ("initrd", 2)}
    assert {image.id for image in IMAGES} <= set(verdict.facts["images"])


# --- attacks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", [b"grub_cmd: ", b"kernel_cmdline: ", b"module_cmdline: ", b""])
def test_attack_rem_event_relabelled_as_a_harmless_command(label):
    """The kernel got init=/bin/sh by GRUB's words, and the log calls the text a command."""
    text = b"/vmlinuz init=/bin/sh"
    stage = stage_of(*changed(cmdline=(3, IPL, label + text + b"\0", text)), grub_commands=[*TABLE["grub_commands"], "*vmlinuz init=*"])
    assert ids(stage) == {"rem.command-line", "rem.event-unknown", "rem.event-missing"}
    options = (3, TAG, LOAD_OPTIONS, wide(f"BOOT_IMAGE={text.decode()}"))
    stage.truth = [("cc", log_of(*changed(cmdline=(3, IPL, label + text + b"\0", text), options=options)))]
    assert ids(stage) == {"rem.command-line", "rem.event-missing"}, "the text is known now, and refused all the same"


@pytest.mark.parametrize("event_type", [SEPARATOR, ACTION, 0x5, IPL, TAG, DRIVER_CONFIG, BOOT_VARIABLE, AUTHORITY, 0x8, 0x80000006])
def test_attack_image_relabelled_as_an_action(event_type):
    """An unregistered boot loader under every other label, with data that fit the label."""
    evil = b"MZ evil loader"
    for data in (b"Calling EFI Application from Boot Option", bytes(4), evil, wide("1\0"), variable("db", evil, SECURITY)):
        stage = stage_of(*changed(calling=(2, event_type, data, evil)))
        found = ids(stage)
        assert found & {"rem.event-unknown", "rem.event-refused"}
        assert found <= {"rem.event-unknown", "rem.event-refused", "rem.event-data"}


def test_attack_forged_kernel_command_line_in_rem2():
    """What the kernel's stub measured is not a line that the rules allow; its text is not even in the log."""
    evil = wide(f"BOOT_IMAGE=/vmlinuz {LINE} init=/bin/sh")
    assert ids(stage_of(*changed(options=(3, TAG, LOAD_OPTIONS, evil)))) == {"rem.event-unknown", "rem.event-missing"}


def test_attack_forged_command_line_beside_a_good_one():
    evil = wide("init=/bin/sh")
    assert ids(stage_of(*BOOT, (3, TAG, LOAD_OPTIONS, evil))) == {"rem.event-unknown"}


@pytest.mark.parametrize("event_type", [IPL, TAG, BOOT_VARIABLE, 0x8, ACTION, SEPARATOR])
def test_attack_command_line_of_the_kernel_relabelled(event_type):
    """The bytes of evil load options in the log, under any label that hashes all of its data."""
    evil = wide("init=/bin/sh\0")
    stage = stage_of(*BOOT, (3, event_type, evil, None), firmware_versions=["*"], grub_commands=["*"], boot_variables="any")
    assert "rem.command-line" in ids(stage)


def test_attack_command_line_told_and_other_one_measured():
    """GRUB's text is what the rules allow, and the kernel got another: the digest decides."""
    stage = stage_of(*changed(options=(3, TAG, LOAD_OPTIONS, wide("BOOT_IMAGE=/vmlinuz init=/bin/sh"))))
    assert ids(stage) == {"rem.event-unknown", "rem.event-missing"}


def test_attack_secure_boot_switched_off():
    assert ids(stage_of(*changed(secure_boot=(1, DRIVER_CONFIG, SECURE_OFF, None)))) == {"rem.secure-boot", "rem.event-missing"}


@pytest.mark.parametrize("event_type", [AUTHORITY, ACTION, IPL, SEPARATOR, 0x8, TAG])
def test_attack_secure_boot_switched_off_and_relabelled(event_type):
    stage = stage_of(*changed(secure_boot=(1, event_type, SECURE_OFF, None)), boot_variables="any")
    assert {"rem.secure-boot", "rem.event-missing"} <= ids(stage)


def test_attack_secure_boot_switched_off_as_contents_of_a_boot_variable():
    """Of boot variables only the contents are hashed, so any bytes could be some; these are what they look like."""
    stage = stage_of(*changed(secure_boot=(1, BOOT_VARIABLE, variable("Boot0000", SECURE_OFF), SECURE_OFF)), boot_variables="any")
    assert ids(stage) == {"rem.secure-boot", "rem.event-missing"}


def test_attack_secure_boot_said_on_behind_off():
    assert ids(stage_of(BOOT[0], (1, DRIVER_CONFIG, SECURE_OFF, None), *BOOT[1:])) == {"rem.secure-boot"}


def test_attack_secure_boot_of_another_owner():
    """A variable of that name that belongs to somebody else says nothing about Secure Boot."""
    other = variable("SecureBoot", b"\1", bytes(16))
    assert ids(stage_of(*changed(secure_boot=(1, DRIVER_CONFIG, other, None)))) == {"rem.authority", "rem.event-missing"}


def test_attack_unknown_image():
    stage = stage_of(*changed(grub=(2, APPLICATION, NO_PATH, b"evil")))
    verdict = stage.judge()
    assert error_ids(verdict) == {"rem.event-unknown", "rem.image-missing"}
    [unknown] = [finding for finding in verdict.findings if finding.id == "rem.event-unknown"]
    assert unknown.where == {
        "log": "cc", "event": 5, "rem": 1, "type": "EV_EFI_BOOT_SERVICES_APPLICATION", "digest": hashlib.sha256(b"evil").hexdigest(),
    }  # fmt: skip
    assert "Authenticode hash" in unknown.message


@pytest.mark.parametrize("name", ["grub", "kernel", "initrd"])
def test_attack_revoked_image(name):
    image = {"grub": GRUB, "kernel": KERNEL, "initrd": RAMDISK}[name]
    stage = stage_of()
    stage.images = tuple(replace(item, state=ImageState.REVOKED) if item is image else item for item in IMAGES)
    assert ids(stage) == {"rem.image-revoked", "rem.image-missing"}


def test_attack_revoked_image_let_in_by_its_digest():
    """The digest is in the workload by name, from before the revocation: the revocation counts."""
    stage = stage_of(digests=[{"rem": 1, "digest": hashlib.sha256(GRUB_CODE).hexdigest()}])
    stage.images = (replace(GRUB, state=ImageState.REVOKED), *IMAGES[1:])
    assert "rem.image-revoked" in ids(stage)


def test_a_deprecated_image_is_a_warning():
    stage = stage_of()
    stage.images = (replace(GRUB, state=ImageState.DEPRECATED), *IMAGES[1:])
    verdict = stage.judge()
    assert verdict.allowed
    assert "rem.image-deprecated" in {finding.id for finding in verdict.findings}


def test_attack_image_in_another_register():
    """An initrd's file among what firmware started is no initrd."""
    assert ids(stage_of(*BOOT, (2, APPLICATION, NO_PATH, INITRD))) == {"rem.image-unexpected"}


def test_attack_image_of_another_workload():
    other = pe("other.efi", Role.BOOT_LOADER, authenticode=digests_of(b"other"))
    stage = stage_of(*BOOT, (2, APPLICATION, NO_PATH, b"other"))
    stage.images = (*IMAGES, other)
    assert ids(stage) == {"rem.image-unexpected"}


def test_attack_image_registered_for_another_role():
    stage = stage_of()
    stage.images = (replace(GRUB, roles=(Role.INITRD,)), *IMAGES[1:])
    assert ids(stage) == {"rem.image-unexpected", "rem.image-missing"}


def test_attack_ccel_read_under_pcr_numbering():
    """The guest calls the firmware's log one of a TPM; the workload even maps PCRs."""
    for table in (TABLE, {**TABLE, "logs": [{"kind": "tpm"}]}, {**TABLE, "logs": [{"kind": "tpm", "pcr_mapping": "uefi"}]}):
        stage = RuntimeStage(table, [("cc", log_of(*BOOT))], IMAGES, sent=[("tpm", log_of(*BOOT))])
        assert ids(stage) in (
            {"rem.log-missing", "rem.not-judged"},
            {"rem.numbering", "rem.not-judged"},
            {"rem.replay", "rem.unexplained", "rem.not-judged"},
        )


def test_attack_log_of_pcrs_called_ccel():
    boot = MeasuredBoot("arm64-uki-direct")
    table = {**boot.table(), "logs": [{"kind": "cc"}]}
    stage = RuntimeStage(table, [("tpm", boot.log)], boot.images, sent=[("cc", boot.log)])
    assert ids(stage) == {"log.index", "rem.not-judged"}


def test_attack_truncated_log():
    stage = stage_of()
    stage.sent = [("cc", log_of(*BOOT)[:-5])]
    assert ids(stage) == {"log.truncated", "rem.not-judged"}


def test_attack_log_without_its_last_events():
    stage = stage_of()
    stage.sent = [("cc", log_of(*BOOT[:-2]))]
    assert ids(stage) == {"rem.replay", "rem.not-judged"}


def test_attack_data_after_padding():
    stage = stage_of()
    stage.sent = [("cc", log_of(*BOOT) + b"\xff" * 64 + b"x" * 64)]
    assert ids(stage) == {"log.padding", "rem.not-judged"}


def test_padding_is_fine():
    stage = stage_of()
    stage.sent = [("cc", log_of(*BOOT) + b"\xff" * 4096)]
    assert ids(stage) == set()


def test_attack_rem_moved_without_a_log():
    stage = stage_of()
    stage.sent, stage.table = [], {**TABLE, "logs": [{"kind": "cc", "required": False}]}
    verdict = stage.judge()
    assert error_ids(verdict) == {"rem.unexplained", "rem.not-judged"}
    assert [finding.where["rem"] for finding in verdict.findings if finding.id == "rem.unexplained"] == [0, 1, 2]


def test_attack_rem_moved_beyond_the_log():
    """REM3 moved, and nothing explains it; or somebody extended a register once more."""
    stage = stage_of()
    stage.rems, stage.extra = ["log"] * 4, ((4, b"x" * 32),)
    assert ids(stage) == {"rem.unexplained", "rem.not-judged"}
    stage.rems, stage.extra = ["log", "log", "log", "zero"], ((3, b"x" * 32),)
    verdict = stage.judge()
    assert error_ids(verdict) == {"rem.replay", "rem.not-judged"}
    [finding] = [finding for finding in verdict.findings if finding.id == "rem.replay"]
    assert finding.where == {"rem": 2, "events": 7}


def test_attack_log_replays_to_something_else():
    stage = stage_of()
    stage.sent = [("cc", log_of(*changed(grub=(2, APPLICATION, NO_PATH, b"evil"))))]
    verdict = stage.judge()
    assert error_ids(verdict) == {"rem.replay", "rem.not-judged"}
    assert "rem.event-unknown" not in {finding.id for finding in verdict.findings}, "what does not replay is not looked at"


def test_attack_event_without_the_realms_algorithm():
    stage = stage_of()
    stage.sent = [("cc", log_of(*BOOT, algorithm=SHA384))]
    assert ids(stage) == {"rem.algorithm", "rem.not-judged"}


def test_attack_event_measured_into_the_rim():
    stage = stage_of()
    stage.sent = [("cc", log_of(*BOOT, (0, SEPARATOR, bytes(4), None)))]
    assert ids(stage) == {"rem.register", "rem.not-judged"}


def test_attack_malformed_data_under_a_type_that_has_a_structure():
    stage = stage_of(*changed(grub=(2, APPLICATION, b"short", GRUB_CODE)))
    assert ids(stage) == {"rem.event-data"}


def test_attack_separator_of_an_error():
    assert ids(stage_of(*BOOT, (1, SEPARATOR, b"\1\0\0\0", None))) == {"rem.event-refused"}
    assert ids(stage_of(*BOOT, (2, ACTION, b"\1\0\0\0", None), boot_variables="any")) == {"rem.event-refused"}


def test_attack_more_text_than_is_judged():
    stage = stage_of(
        *BOOT, *((3, IPL, b"grub_cmd: " + bytes([65 + n % 26]) * (900 + n) + b"\0", bytes([65 + n % 26]) * (900 + n)) for n in range(100))
    )
    verdict = stage.judge()
    assert "rem.event-refused" in error_ids(verdict)
    assert any("more text" in finding.message for finding in verdict.findings)
    assert len(verdict.findings) < 110


def test_attack_thousands_of_unknown_events_leave_few_findings():
    events = [(2, ACTION, b"", bytes([n % 256, n // 256])) for n in range(1000)]
    stage = stage_of(*BOOT, *events)
    stage.stage = Stage(limits=Limits(runtime_findings=20))
    verdict = stage.judge()
    assert len([finding for finding in verdict.findings if finding.id == "rem.event-unknown"]) == 20
    assert any("980 more events" in finding.message for finding in verdict.findings)


def test_attack_thousands_of_look_ups():
    """Each unknown digest would be a question to the database."""
    events = [(2, ACTION, b"", bytes([number % 256, number // 256])) for number in range(3000)]
    stage = stage_of(*events)
    evidence = Evidence(b"token", [(parse_label("cc"), log_of(*events))])
    logs = read_runtime_logs(evidence, [RuntimeRules.model_validate(stage.table)], DEFAULT_LIMITS)
    assert len(digests_to_look_up(logs, HashAlgorithm.SHA256)) == MOST_LOOKED_UP


def test_attack_revoked_image_hidden_by_its_own_bytes_or_as_an_entry_of_ima():
    """What a workload names is looked up, even if the log holds what was hashed; and nothing is an entry of IMA because it says so."""
    rules = RuntimeRules.model_validate(
        TABLE | {"digests": [{"rem": 2, "digest": digests_of(b"old grub.cfg")[HashAlgorithm.SHA256].hex()}]}
    )
    named = [bytes.fromhex(rule.digest) for rule in rules.digests]
    evidence = Evidence(b"token", [(parse_label("cc"), log_of(*BOOT, (3, IPL, b"old grub.cfg", None)))])
    logs = read_runtime_logs(evidence, [rules], DEFAULT_LIMITS)
    assert (HashAlgorithm.SHA256, named[0]) in digests_to_look_up(logs, HashAlgorithm.SHA256, named)
    digest = digests_of(b"revoked")[HashAlgorithm.SHA256]
    disguised = cel_tlv([(0, 3, {SHA256: digest}, (7, ("ima-ng", ima_ng(b"/usr/bin/true"))))])
    table = RuntimeRules.model_validate(TABLE | {"logs": [{"kind": "cel-tlv"}]})
    logs = read_runtime_logs(Evidence(b"token", [(parse_label("cel-tlv.mr"), disguised)]), [table], DEFAULT_LIMITS)
    assert (HashAlgorithm.SHA256, digest) in digests_to_look_up(logs, HashAlgorithm.SHA256)


def test_attack_logs_that_cost_more_than_they_weigh():
    """As many events as a log may have, each with text that nearly matches many patterns."""
    paths = [{"path": f"/usr/bin/x*{number}", "digests": ["00" * 32]} for number in range(900)]
    rules = {"files": [*paths, *({"path": f"/usr/bin/x*{number}a"} for number in range(64))]}
    entries = b"".join(ima_record(b"ima-ng", ima_ng(b"/usr/bin/x%d" % number)) for number in range(8000))
    stage = ima_stage(entries, extended=b"", ima=rules)
    values = [hashlib.sha256(ima_ng(b"/usr/bin/x%d" % number)).digest() for number in range(8000)]
    stage.extra = tuple((3, value) for value in values)
    before = time.process_time()
    assert ids(stage) == {"rem.ima", "rem.event-refused"}, "the second stands for those that are only counted"
    assert time.process_time() - before < 10, "usually below 2 s, most of it for the simulated realm"
    texts = [b"a" * 90 + b"%d" % number for number in range(6000)]
    commands = ["a" * 20 + "*" + "a" * 9 + f"*{number}x" for number in range(256)]
    stage = stage_of(*BOOT, *((3, IPL, b"grub_cmd: " + text, text) for text in texts), grub_commands=commands)
    before = time.process_time()
    assert "rem.event-refused" in ids(stage)
    assert time.process_time() - before < 10


def test_attack_more_events_than_all_logs_may_have():
    stage = stage_of()
    stage.stage = Stage(limits=Limits(runtime_events=10))
    assert ids(stage) == {"log.events", "rem.not-judged"}


def test_attack_firmware_that_measured_nothing():
    """The evil loader that nobody measured extends what a good boot would have; what is demanded of REM0 is the firmware's to measure."""
    stage = stage_of(*without("version", "secure-boot", "separator-1"))
    assert ids(stage) == {"rem.event-missing"}


# --- what must be there -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left_out", "finding"),
    [
        (("grub",), "rem.image-missing"),
        (("kernel",), "rem.image-missing"),
        (("initrd", "initrd-file"), "rem.image-missing"),
        (("options",), "rem.event-missing"),
        (("secure-boot",), "rem.event-missing"),
        (("separator-1",), "rem.event-missing"),
    ],
)
def test_what_the_workload_demands_must_be_there(left_out, finding):
    assert ids(stage_of(*without(*left_out))) == {finding}


def test_images_that_are_not_required_may_be_missing():
    images = [{**rule, "required": rule["role"] != "boot-file"} for rule in TABLE["images"]]
    assert ids(stage_of(*without("config"), images=images)) == set()


def test_a_named_digest_must_be_there_if_it_is_required():
    digest = {"rem": 1, "digest": "ab" * 32, "comment": "SMBIOS"}
    assert ids(stage_of(digests=[digest])) == set()
    assert ids(stage_of(digests=[{**digest, "required": True}])) == {"rem.event-missing"}
    assert ids(stage_of(digests=[{**digest, "rem": 0}], secure_boot={"db": ["00" * 32]})) == {"rem.event-missing"}


def test_a_named_digest_lets_one_register_in():
    extra = (2, APPLICATION, NO_PATH, b"vendor tool")
    named = {"digest": hashlib.sha256(b"vendor tool").hexdigest(), "type": "EV_EFI_BOOT_SERVICES_APPLICATION"}
    assert ids(stage_of(*BOOT, extra, digests=[{**named, "rem": 1}])) == set()
    assert ids(stage_of(*BOOT, extra, digests=[{**named, "rem": 2}])) == {"rem.event-unknown"}


def test_unknown_events_of_one_register_may_be_a_warning():
    extra = (3, IPL, b"(hd0,gpt2)/boot/grub/fonts/unicode.pf2\0", b"a font")
    assert ids(stage_of(*BOOT, extra)) == {"rem.event-unknown"}
    assert ids(stage_of(*BOOT, extra, unknown={"rem1": "warn"})) == {"rem.event-unknown"}
    verdict = stage_of(*BOOT, extra, unknown={"rem2": "warn"}).judge()
    assert verdict.allowed
    [warning] = [finding for finding in verdict.findings if finding.id == "rem.event-unknown"]
    assert "unicode.pf2" in warning.message


def test_kernels_that_measure_nothing_need_the_boot_loaders_word():
    commands = [command for command in TABLE["grub_commands"] if "*" not in command]
    table = {"grub_commands": [*commands, "set root=hd0,gpt2"], "command_line": {**TABLE["command_line"], "measured_by": "boot-loader"}}
    assert ids(stage_of(*without("options"), **table)) == set()
    assert ids(stage_of(*without("options", "cmdline"), **table)) == {"rem.event-missing"}


# --- authorities, keys, logs ------------------------------------------------------------------------------------------


def test_authorities_are_named_by_their_certificate_or_by_all_of_it():
    certificate = b"a certificate in DER"
    vouched = (1, AUTHORITY, variable("db", bytes(16) + certificate, SECURITY), None)
    for allowed in ([hashlib.sha256(certificate).hexdigest()], [hashlib.sha256(bytes(16) + certificate).hexdigest()], "any"):
        assert ids(stage_of(*BOOT, vouched, secure_boot={"state": "on", "authorities": allowed})) == set()
    assert ids(stage_of(*BOOT, vouched)) == {"rem.authority"}
    assert ids(stage_of(*BOOT, vouched, secure_boot={"authorities": ["00" * 32]})) == {"rem.authority"}


def test_keys_of_secure_boot():
    lists = struct.pack("<16sIII", bytes(16), 28 + 48, 0, 48) + bytes(48)
    enrolled = (1, DRIVER_CONFIG, variable("db", lists, SECURITY), None)
    for allowed, found in (("any", set()), ([hashlib.sha256(lists).hexdigest()], set()), ("refuse", {"rem.secure-boot"})):
        assert ids(stage_of(*BOOT, enrolled, secure_boot={"state": "on", "db": allowed})) == found
    other = ids(stage_of(*BOOT, enrolled, secure_boot={"db": ["00" * 32]}))
    assert other == {"rem.secure-boot", "rem.event-missing"}


def test_the_device_tree_of_the_rim_may_be_measured_again():
    stage = Stage()
    tree = bytes(next(load.data for load in stage.vm.script.loads if load.name == "DTB"))
    fdt = (1, 0x10, b"Kvmtool FDT.", tree)
    assert ids(stage_of(*BOOT, fdt)) == set()
    assert ids(stage_of(*BOOT, (1, 0x10, b"Kvmtool FDT.", tree + b"x"))) == {"rem.event-unknown"}
    assert ids(stage_of(*BOOT, (2, 0x10, b"Kvmtool FDT.", tree))) == {"rem.event-unknown"}


def test_logs_that_nobody_asks_for_are_noted():
    verdict = Stage().judge(
        with_logs(SimulatedRealm(Stage().simulation()).evidence(Stage().challenge), [("cc", b"junk"), ("aael", b"junk")])
    )
    assert [finding.seen for finding in verdict.findings if finding.id == "log.kind"] == ["cc", "aael"]


def test_registers_that_are_not_explained_by_logs_keep_their_rule():
    stage = stage_of()
    stage.rems = ["log", "log", "zero", "zero"]
    stage.table = {**TABLE, "images": TABLE["images"][:2], "command_line": None, "grub_commands": []}
    assert ids(stage) == {"rem.mismatch"}
    signed = extends_of(read("cc", log_of(*BOOT)))
    value = bytes(32)
    for register, digest in signed:
        value = hashlib.sha256(value + digest).digest() if register == 3 else value
    stage.rems = ["log", "log", [value.hex()], "zero"]
    assert ids(stage) == set()


def test_firmware_that_starts_first_is_judged_by_its_log():
    stage = stage_of()
    stage.stage = Stage(vm=QEMU_FIRMWARE)
    verdict = stage.judge()
    assert verdict.allowed
    assert "rem.nothing-measured" not in {finding.id for finding in verdict.findings}


# --- UKIs -------------------------------------------------------------------------------------------------------------


def section(name: str, content: bytes, text: str | None = None) -> UkiSection:
    return UkiSection(name, None, len(content), digests_of(content), text)


UKI_LINE, ADDON_LINE = "quiet root=/dev/vda2", "debug"
UKI_SECTIONS = (section(".linux", KERNEL_CODE), section(".cmdline", UKI_LINE.encode(), UKI_LINE))
UKI = pe(
    "web.efi", Role.UKI, authenticode=digests_of(b"code of the UKI"), uki=UkiFacts(UkiForm.UKI, UKI_SECTIONS, (digests_of(b"stub initrd"),))
)
ADDON = pe(
    "debug.addon.efi", Role.UKI_ADDON, authenticode=digests_of(b"code of the addon"),
    uki=UkiFacts(UkiForm.ADDON, (section(".cmdline", ADDON_LINE.encode(), ADDON_LINE),)),
)  # fmt: skip
UKI_BOOT: tuple[Event, ...] = (
    (2, APPLICATION, NO_PATH, b"code of the UKI"),
    (3, IPL, wide(".linux\0"), b".linux\0"),
    (3, IPL, wide(".linux\0"), KERNEL_CODE),
    (3, IPL, wide(".cmdline\0"), b".cmdline\0"),
    (3, IPL, wide(".cmdline\0"), UKI_LINE.encode()),
    (3, TAG, INITRD_EVENT, b"stub initrd"),
)
UKI_TABLE = {"logs": [{"kind": "cc"}], "images": [{"role": "uki", "images": [UKI.id]}]}
OPTIONS = (3, TAG, LOAD_OPTIONS, load_options(UKI_LINE))


def uki_stage(*events: Event, images=(UKI,), **changes) -> RuntimeStage:
    return RuntimeStage({**UKI_TABLE, **changes}, [("cc", log_of(*events))], images)


def test_a_uki_brings_its_command_line():
    assert ids(uki_stage(*UKI_BOOT, OPTIONS)) == set()
    assert ids(uki_stage(*UKI_BOOT, (3, TAG, LOAD_OPTIONS, load_options(UKI_LINE + " init=/bin/sh")))) == {"rem.event-unknown"}


def test_attack_command_line_of_a_uki_that_was_not_booted():
    """It is registered and in the registry's answer, but this workload does not let it in."""
    other = pe(
        "other.efi", Role.UKI, authenticode=digests_of(b"other"),
        uki=UkiFacts(UkiForm.UKI, (section(".linux", KERNEL_CODE), section(".cmdline", b"rescue", "rescue"))),
    )  # fmt: skip
    stage = uki_stage(*UKI_BOOT, OPTIONS, (3, TAG, LOAD_OPTIONS, load_options("rescue")), images=(UKI, other))
    assert ids(stage) == {"rem.event-unknown"}
    stage = uki_stage(*UKI_BOOT, OPTIONS, (3, IPL, wide(".cmdline\0"), b"rescue"), images=(UKI, other))
    assert ids(stage) == {"rem.image-unexpected"}


def test_a_section_shared_with_a_revoked_uki_is_still_good():
    revoked = pe("old.efi", Role.UKI, authenticode=digests_of(b"old"), uki=UKI.measurements.pe.uki, state=ImageState.REVOKED)
    assert ids(uki_stage(*UKI_BOOT, OPTIONS, images=(revoked, UKI))) == set()
    assert "rem.image-revoked" in ids(uki_stage(*UKI_BOOT, OPTIONS, images=(revoked,)))


def test_addons_add_to_the_command_line():
    loaded = (2, APPLICATION, NO_PATH, b"code of the addon")
    told = (3, IPL, wide(ADDON_LINE + "\0"), None)
    options = (3, TAG, LOAD_OPTIONS, load_options(f"{UKI_LINE} {ADDON_LINE}"))
    images = [*UKI_TABLE["images"], {"role": "uki-addon", "images": [ADDON.id], "required": False}]
    stage = uki_stage(*UKI_BOOT, loaded, told, options)
    stage.images, stage.table = (UKI, ADDON), {**UKI_TABLE, "images": images}
    assert ids(stage) == set()
    stage.truth = [("cc", log_of(*UKI_BOOT, told, options))]
    assert ids(stage) == {"rem.command-line", "rem.event-unknown"}, "an addon that was not loaded adds nothing"


# --- other logs -------------------------------------------------------------------------------------------------------

PULL = b'github.com/confidential-containers PullImage {"image":"alpine","digest":"sha256:00"}'
AGENT = {"domain": "github.com/confidential-containers", "operation": "PullImage", "content": '{"image":"alpine","digest":"sha256:*"}'}


def agent_stage(*lines: bytes, **changes) -> RuntimeStage:
    table = {**TABLE, "logs": [{"kind": "cc"}, {"kind": "aael"}], "aael": [AGENT], **changes}
    data = b"".join(aael_record(line, SHA256) for line in lines)
    return RuntimeStage(table, [("cc", log_of(*BOOT)), ("aael", data)], IMAGES, rems=["log"] * 4)


def test_events_of_the_attestation_agent():
    assert ids(agent_stage(PULL)) == set()
    assert ids(agent_stage(PULL.replace(b"alpine", b"evil"))) == {"rem.event-refused"}
    assert ids(agent_stage(PULL, aael=[])) == {"rem.event-refused"}


def test_attack_agents_log_left_out():
    stage = agent_stage(PULL)
    stage.sent = [("cc", log_of(*BOOT))]
    assert ids(stage) == {"rem.log-missing", "rem.not-judged"}


def test_attack_agents_events_in_another_register():
    """Events of the agent count in REM3 only: elsewhere a file could look like one."""
    line = b"LEAA" + struct.pack("<I", len(PULL)) + PULL
    assert "rem.event-unknown" in ids(stage_of(*BOOT, (3, TAG, line, None), aael=[AGENT]))


SHELL = ima_ng(b"/bin/sh", b"a shell")
SHELL_DIGEST = hashlib.sha256(b"a shell").hexdigest()
CEL_LABELS = ("cel-tlv.mr", "cel-cbor.mr", "cel-json.mr")


def ima_stage(*records: bytes, extended: bytes, ima: dict | None) -> RuntimeStage:
    """A kernel that extended ``extended`` for the one entry of its list."""
    table = {**TABLE, "logs": [{"kind": "cc"}, {"kind": "ima", "pcr_mapping": "uefi"}], "ima": ima}
    sent = [("cc", log_of(*BOOT)), ("ima", b"".join(records))]
    return RuntimeStage(table, sent[:1], IMAGES, sent=sent, extra=((3, extended),))


def test_attack_initrd_dressed_up_as_an_entry_of_ima():
    """Bytes that Linux unpacks as an initrd (see ``test_event_meaning``), in the form of an entry without digest and path."""
    entry = ima_fields(b"", b"", lzma.compress(INITRD, format=lzma.FORMAT_ALONE)[3:].ljust(0x5D00, b"\0"))
    stage = ima_stage(ima_record(b"ima-buf", entry), extended=hashlib.sha256(entry).digest(), ima={"mode": "any"})
    assert ids(stage) == {"rem.event-unknown"}


@pytest.mark.parametrize("bank", ["hashed", "padded"])
@pytest.mark.parametrize(
    ("rules", "found"),
    [
        ({"files": [{"path": "/bin/*", "digests": [SHELL_DIGEST]}]}, set()),
        ({"files": [{"path": "/bin/*"}]}, set()),
        ({"mode": "any"}, set()),
        ({"files": [{"path": "/bin/sh", "digests": ["00" * 32]}]}, {"rem.ima"}),
        ({"files": [{"path": "/usr/*"}]}, {"rem.ima"}),
        (None, {"rem.ima"}),
    ],
)
def test_ima_by_path_and_digest(bank, rules, found):
    """Old kernels extend the SHA-1 digest of an entry with zeros behind, new ones the realm's own hash of it."""
    extended = hashlib.sha256(SHELL).digest() if bank == "hashed" else hashlib.sha1(SHELL).digest().ljust(32, b"\0")
    stage = ima_stage(ima_record(b"ima-ng", SHELL), extended=extended, ima=rules)
    assert ids(stage) == found
    if not found:
        assert stage.judge().facts["runtime"]["ima_bank"] == bank


def test_ima_violations_are_let_in_by_name_only():
    record = ima_record(b"ima-ng", SHELL, digest=bytes(20))
    for allowed, found in ((True, set()), (False, {"rem.ima"})):
        assert ids(ima_stage(record, extended=b"\xff" * 32, ima={"mode": "any", "violations": allowed})) == found


def test_attack_configuration_of_grub_called_an_entry_of_ima():
    """A file whose bytes are a row of fields, with commands in the path: no path of IMA has a line feed."""
    evil = ima_ng(b"\nlinux /evil\n")
    record = ima_record(b"ima-ng", evil)
    assert ids(ima_stage(record, extended=hashlib.sha256(evil).digest(), ima={"mode": "any"})) == {"rem.event-unknown"}


def test_attack_any_bytes_called_an_entry_of_ima():
    """The name of the template is the log's word: one that nobody has fits all bytes."""
    evil = b"\x04\0\0\0evil"
    record = ima_record(b"x", evil)
    assert ids(ima_stage(record, extended=hashlib.sha256(evil).digest(), ima={"mode": "any"})) == {"rem.event-unknown"}


def cel_of(label: str, *events: Event) -> bytes:
    """The same events as a canonical event log."""
    records = [
        (number, register, {SHA256: hashlib.sha256(data if hashed is None else hashed).digest()}, (5, (kind, data)))
        for number, (register, kind, data, hashed) in enumerate(events)
    ]
    return {"cel-tlv.mr": cel_tlv, "cel-cbor.mr": cel_cbor, "cel-json.mr": cel_json}[label](records)


@pytest.mark.parametrize("label", CEL_LABELS)
def test_a_canonical_log_of_a_boot_is_judged_alike(label):
    table = {**TABLE, "logs": [{"kind": label.removesuffix(".mr")}]}
    assert ids(RuntimeStage(table, [(label, cel_of(label, *BOOT))], IMAGES)) == set()
    evil = cel_of(label, *changed(grub=(2, APPLICATION, NO_PATH, b"evil")))
    assert ids(RuntimeStage(table, [(label, evil)], IMAGES)) == {"rem.event-unknown", "rem.image-missing"}


@pytest.mark.parametrize("label", CEL_LABELS)
def test_attack_canonical_log_under_pcr_numbering(label):
    kind = label.removesuffix(".mr")
    for mapping, found in (("refuse", {"rem.numbering"}), ("uefi", {"rem.replay", "rem.unexplained"})):
        table = {**TABLE, "logs": [{"kind": kind, "pcr_mapping": mapping}]}
        stage = RuntimeStage(table, [(label, cel_of(label, *BOOT))], IMAGES, sent=[(f"{kind}.pcr", cel_of(label, *BOOT))])
        assert ids(stage) == {*found, "rem.not-judged"}


def test_contents_of_canonical_logs_by_type_and_digest():
    content = b"what a vendor writes"
    records = [(0, 4, {SHA256: hashlib.sha256(content).digest()}, (80, content))]
    stage = RuntimeStage(
        {**TABLE, "logs": [{"kind": "cc"}, {"kind": "cel-tlv"}]}, [("cc", log_of(*BOOT)), ("cel-tlv.mr", cel_tlv(records))], IMAGES
    )
    stage.rems = ["log"] * 4
    assert ids(stage) == {"rem.event-refused"}
    rule = {"rem": 3, "type": 80, "contents": [hashlib.sha256(content).hexdigest()]}
    for change, found in (({}, set()), ({"type": 81}, {"rem.event-refused"}), ({"rem": 2}, {"rem.event-refused"})):
        stage.table = {**stage.table, "cel": [{**rule, **change}]}
        assert ids(stage) == found
