"""Measured boots of real firmware as realms: their logs, the images behind the digests, and the workloads that their oracles ask for.

The boots in ``vectors/images/measured-boot`` had a TPM. Here their PCRs are mapped to REMs as UEFI says, with what belongs to PCR 0 in REM0
as EDK2 does for Arm CCA. Images are made from the digests that the oracle has, because the files themselves are not kept.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from stage import Stage

from kbs_rim.appraisal.appraise import Verdict
from kbs_rim.appraisal.registered_image import ImageState, RegisteredImage
from kbs_rim.appraisal.runtime_logs import in_rems
from kbs_rim.appraisal.runtime_workload import LogRule
from kbs_rim.appraisal.workload import Role
from kbs_rim.evidence.envelope import Evidence
from kbs_rim.evidence.event_log import EventLog, TcgContent
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.evidence.log_label import LogLabel, parse_label
from kbs_rim.evidence.log_reader import read_event_log
from kbs_rim.evidence.tcg_structures import parse_variable
from kbs_rim.measurement.firmware_volume import FirmwareVolume
from kbs_rim.measurement.image import ImageKind, ImageMeasurements
from kbs_rim.measurement.pe_facts import PeFacts
from kbs_rim.measurement.uki import UkiFacts, UkiForm, UkiSection
from kbs_rim.realm.rim_model import RmmGeneration
from kbs_rim.realm.simulator import SimulatedRealm

BOOTS = Path(__file__).parent / "vectors" / "images" / "measured-boot"
LOGS = Path(__file__).parent / "vectors" / "logs"
NAMES = sorted(path.parent.name for path in BOOTS.glob("*/oracle.json"))
MAPPING = "uefi-rim-to-rem0"
Digests = dict[HashAlgorithm, bytes]


def digests_of(data: bytes) -> Digests:
    return {algorithm: algorithm.digest(data) for algorithm in HashAlgorithm}


def logged_digests(event: dict) -> Digests:
    return {algorithm: bytes.fromhex(event["digests"][algorithm.compact_name]) for algorithm in HashAlgorithm}


def blob(name: str, *roles: Role, digests: Digests | None = None, state: ImageState = ImageState.ACTIVE, **parts) -> RegisteredImage:
    """A registered image of which only digests are known. Without any the file's own are made up from its name."""
    own = digests or digests_of(name.encode())
    measured = ImageMeasurements(ImageKind.BLOB, None, 4096, own, 4096, own, None, None, {}, **parts)
    return RegisteredImage(measured.image_id, name, roles, state, measured)


def pe(
    name: str, *roles: Role, authenticode: Digests, uki: UkiFacts | None = None, state: ImageState = ImageState.ACTIVE
) -> RegisteredImage:
    """A registered PE file, by its Authenticode digest."""
    return blob(name, *roles, pe=PeFacts(0xAA64, 0, authenticode, uki=uki), state=state)


@dataclass(frozen=True)
class MeasuredBoot:
    """One boot of the vectors."""

    name: str

    @cached_property
    def oracle(self) -> dict:
        return json.loads((BOOTS / self.name / "oracle.json").read_text())

    @property
    def log(self) -> bytes:
        return (BOOTS / self.name / "log.bin").read_bytes()

    @property
    def events(self) -> list[dict]:
        """What the oracle says of each event; the header is left out, so that numbers are those of our events."""
        return self.oracle["events"][1:]

    @cached_property
    def data(self) -> list[bytes]:
        """Event data as logged."""
        parsed = read_event_log(self.log, parse_label("tpm").format).events
        return [event.content.data if isinstance(event.content, TcgContent) else b"" for event in parsed]

    def of_source(self, start: str) -> list[dict]:
        return [event for event in self.events if (event["source"] or "").startswith(start)]

    @property
    def command_line(self) -> str:
        """What the kernel measured, by the oracle's words."""
        [event] = self.of_source("H(UTF-16LE of ")
        return event["source"].split("'")[1].replace(" (GRUB: without NUL)", "")

    @cached_property
    def images(self) -> tuple[RegisteredImage, ...]:
        """Everything that an administrator would have registered for this boot."""
        found = [
            blob("firmware", Role.FIRMWARE, volumes=(FirmwareVolume(0x1000, 0x1000 * 3, logged_digests(event)),))
            for event in self.of_source("H(qemu-efi-aarch64")
        ]
        for event in self.of_source("Authenticode of "):
            source = event["source"]
            if "UKI" in source:
                found.append(pe(source, Role.UKI, authenticode=logged_digests(event), uki=self.uki))
            elif "linux-image" in source:
                found.append(pe(source, Role.KERNEL, authenticode=logged_digests(event)))
            else:
                found.append(pe(source, Role.BOOT_LOADER, authenticode=logged_digests(event)))
        found += [
            blob(f"acpi {number}", Role.ACPI, digests=logged_digests(event)) for number, event in enumerate(self.of_source("H(fw_cfg file"))
        ]
        if not self.is_uki:
            found += [blob("initrd", Role.INITRD, digests=logged_digests(event)) for event in self.of_source("H(test initrd")]
        return tuple({image.id: image for image in found}.values())

    @property
    def is_uki(self) -> bool:
        return any(event["pcr"] == 11 for event in self.events)

    @property
    def uki(self) -> UkiFacts:
        """The UKI that was booted, from the digests of its sections."""
        sections = []
        for event in (event for event in self.events if event["pcr"] == 11):
            if event["source"].startswith("H(first"):
                name = event["source"].rsplit(" ", 1)[1].rstrip(")")
                text = self.command_line if name == ".cmdline" else None
                sections.append(UkiSection(name, 0 if name == ".profile" else None, 1, logged_digests(event), text))
        initrds = [logged_digests(event) for event in (*self.of_source("H(test initrd"), *self.of_source("H(.ucode + test initrd"))]
        return UkiFacts(UkiForm.UKI, tuple(sections), tuple(initrds))

    def table(self, algorithm: HashAlgorithm = HashAlgorithm.SHA256) -> dict:
        """The ``runtime`` table that lets this boot in, and as little else as can be said."""
        roles: dict[str, list[str]] = {}
        for image in self.images:
            roles.setdefault(image.roles[0].value, []).append(image.id)
        secure = next(event for event in self.events if event["desc"].startswith("var SecureBoot"))
        state = "on" if self.data[self.events.index(secure)].endswith(b"\x01") else "off"
        versions = [event["desc"].strip("'").removesuffix("\\x00") for event in self.events if event["type"] == "EV_S_CRTM_VERSION"]
        other = [
            *self.of_source("H(EFI_SIGNATURE_LIST of"),
            *self.of_source("H(deauthorized part of"),
            *[e for e in self.events if e["source"] is None],
        ]
        rem = {14: 2, 1: 0}
        table = {
            "logs": [{"kind": "tpm", "pcr_mapping": MAPPING}],
            "images": [{"role": role, "images": ids} for role, ids in roles.items()],
            "secure_boot": {"state": state, "db": [self.contents("db")], "authorities": self.authorities() or "refuse"},
            "firmware_versions": versions,
            "boot_variables": "any",
            "separators": [0, 1],
            "digests": [
                {
                    "rem": rem[event["pcr"]],
                    "digest": logged_digests(event)[algorithm].hex(),
                    "comment": event["desc"][:100],
                    "required": True,
                }
                for event in other
            ],
        }
        if any(event["type"] == "EV_EFI_GPT_EVENT" for event in self.events):
            table["partition_tables"] = "any"
        if not self.is_uki:
            table["command_line"] = {"exact": [self.command_line]}
        return table

    def contents(self, variable: str) -> str:
        """SHA-256 of what a variable of Secure Boot held."""
        number = next(n for n, event in enumerate(self.events) if event["desc"].startswith(f"var {variable} "))
        return hashlib.sha256(parse_variable(self.data[number]).data).hexdigest()

    def authorities(self) -> list[str]:
        numbers = [n for n, event in enumerate(self.events) if event["type"] == "EV_EFI_VARIABLE_AUTHORITY"]
        return [hashlib.sha256(parse_variable(self.data[number]).data).hexdigest() for number in numbers]


REMS = ["log", "log", "log", "zero"]


def extends_of(log: EventLog, algorithm: HashAlgorithm = HashAlgorithm.SHA256, mapping: str = MAPPING) -> tuple[tuple[int, bytes], ...]:
    """What a realm extends that measured what a log says."""
    mapped = in_rems(log, LogRule(kind=log.format, pcr_mapping=mapping))
    assert mapped is not None
    return tuple((event.register, event.digests[algorithm.tpm_id]) for event in mapped.events if event.measured and event.register)


def read(label: str, data: bytes) -> EventLog:
    known = parse_label(label)
    return read_event_log(data, known.format, registers=known.registers)


@dataclass
class RuntimeStage:
    """A realm on the stage that measured what ``truth`` says and sends ``sent``; both are (label, bytes) of logs."""

    table: dict
    truth: Iterable[tuple[str, bytes]]
    images: tuple[RegisteredImage, ...] = ()
    sent: Iterable[tuple[str, bytes]] | None = None
    rems: list = field(default_factory=lambda: list(REMS))
    mapping: str = MAPPING
    extra: tuple[tuple[int, bytes], ...] = ()
    stage: Stage = field(default_factory=Stage)
    algorithm: HashAlgorithm = HashAlgorithm.SHA256

    def judge(self) -> Verdict:
        truth = [(label, read(label, data)) for label, data in self.truth]
        self.stage.changes = {**self.stage.changes, "realm": {"rems": self.rems}, "runtime": self.table}
        self.stage.measured = self.images
        extends = tuple(item for _, log in truth for item in extends_of(log, self.algorithm, self.mapping)) + self.extra
        generation = RmmGeneration.V2 if self.algorithm is HashAlgorithm.SHA384 else RmmGeneration.V1
        realm = SimulatedRealm(self.stage.simulation(extends=extends, generation=generation))
        return self.stage.judge(with_logs(realm.evidence(self.stage.challenge), self.truth if self.sent is None else self.sent))


def with_logs(evidence: Evidence, logs: Iterable[tuple[str, bytes]]) -> Evidence:
    """The same evidence with more logs."""
    labelled: list[tuple[LogLabel, bytes]] = [(parse_label(label), data) for label, data in logs]
    return Evidence(evidence.token, (*evidence.logs, *labelled), evidence.device_tree)
