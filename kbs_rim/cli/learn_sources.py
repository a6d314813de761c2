"""Where ``kbs-rim workload learn`` gets a boot from: files, or what is stored of an appraisal; images from files and the registry."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kbs_rim.errors import TheirFault

if TYPE_CHECKING:
    from kbs_rim.appraisal.reference_boot import Boot
    from kbs_rim.appraisal.registered_image import RegisteredImage
    from kbs_rim.appraisal.rule_values import Role
    from kbs_rim.appraisal.runtime_logs import RuntimeLog
    from kbs_rim.appraisal.runtime_workload import LogRule
    from kbs_rim.cli.admin_client import AdminClient
    from kbs_rim.evidence.hash_algorithm import HashAlgorithm
    from kbs_rim.evidence.log_label import LogLabel

LAST_TOKEN_STEP = 3
"""Steps 1 to 3 judge envelope, token and platform: with an error in them nobody knows who signed the REMs."""
_WHAT_MEASURES = ("platform.", "log.", "rim.", "boot.", "tree.")
"""Findings on the machine, and on the firmware or kernel that it started: whoever is not those extends REMs with what was never run."""


# --- boots ------------------------------------------------------------------------------------------------------------


def logs_from_files(
    values: Sequence[str], kind: str | None, registers: str | None, mapping: str | None
) -> "list[tuple[LogRule, RuntimeLog]]":
    """Read LOG arguments: files of one ``kind``, or KIND=FILE each. The order is that in which they extended the registers.

    Raises ``UsageError`` for a kind that is not said or not known, ``MalformedEvidence`` for a log that cannot be read.
    """
    from kbs_rim.evidence.event_log import LogFormat
    from kbs_rim.limits import DEFAULT_LIMITS

    logs = []
    for value in values:
        label, path = _labelled(value, kind, registers)
        if label.format is LogFormat.VMM:
            raise click.UsageError("the VMM's log explains the RIM; it says nothing of REMs")
        with path.open("rb") as stream:
            logs.append(_log(label, stream.read(DEFAULT_LIMITS.log_bytes + 1), mapping))
    if len({rule.kind for rule, _ in logs}) != len(logs):
        raise click.UsageError("two logs of one kind: learn from one boot at a time")
    return logs


def _labelled(value: str, kind: str | None, registers: str | None) -> "tuple[LogLabel, Path]":
    from kbs_rim.evidence.log_label import LABELS, parse_label

    name, equals, path = value.partition("=")
    if equals and (name in {label.value for label in LABELS} or (kind is None and not Path(value).exists())):
        kind, registers = name, None
    else:
        path = value
    if kind is None:
        raise click.UsageError(f"what kind of log is {value}? Give --kind, or write KIND=FILE; nothing is guessed")
    try:
        return parse_label(kind, registers), Path(path)
    except ValueError as error:
        known = ", ".join(label.value for label in LABELS if label.value != "vmm")
        raise click.UsageError(f"{kind}: {error}. Kinds are {known}") from None


def _log(label: "LogLabel", data: bytes, mapping: str | None) -> "tuple[LogRule, RuntimeLog]":
    from kbs_rim.appraisal.runtime_logs import RuntimeLog
    from kbs_rim.appraisal.runtime_workload import LogRule, PcrMapping
    from kbs_rim.evidence.event_log import RegisterKind
    from kbs_rim.evidence.log_reader import read_event_log

    counted = PcrMapping(mapping) if mapping and label.registers is RegisterKind.PCR else PcrMapping.REFUSE
    return LogRule(kind=label.format, pcr_mapping=counted), RuntimeLog(label, read_event_log(data, label.format, registers=label.registers))


def boot_of_appraisal(client: "AdminClient", ticket: str, mapping: str | None, images: "Sequence[RegisteredImage]") -> "Boot":
    """Return the boot that a past appraisal judged, allowed or refused: its logs as stored, the REMs of its signed token.

    Raises ``NotFound``, and ``TheirFault`` if the token was not genuine or no log came.
    """
    from kbs_rim.appraisal.reference_boot import Boot
    from kbs_rim.evidence.hash_algorithm import HashAlgorithm
    from kbs_rim.evidence.log_label import parse_label

    record = client.get(f"/audit/v1/appraisals/{ticket}")["appraisal"]
    _refuse_unproven(record)
    algorithm = HashAlgorithm(record["facts"]["hash_algorithm"])
    labels = sorted(
        (parse_label(name.removeprefix("log.")) for name in record["inputs"] if name.startswith("log.") and name != "log.vmm"),
        key=lambda label: label.place,
    )
    if not labels:
        raise TheirFault("rem.log-missing", f"no log of REMs came with appraisal {ticket}")
    logs = [_log(label, _payload(client, record, f"log.{label.value}"), mapping) for label in labels]
    rem0, rem1, rem2, rem3 = (bytes.fromhex(value) for value in record["facts"]["rems"])
    return Boot(
        logs=logs,
        algorithm=algorithm,
        images=images,
        signed=(rem0, rem1, rem2, rem3),
        loaded=_trees(client, record, algorithm, images),
    )


def _refuse_unproven(record: Mapping[str, Any]) -> None:
    errors = [finding for finding in record["findings"] if finding["severity"] == "error"]
    bad = [finding for finding in errors if finding["step"] <= LAST_TOKEN_STEP or finding["id"].startswith(_WHAT_MEASURES)]
    if bad or "rems" not in record["facts"]:
        why = f"{bad[0]['id']}: {bad[0]['message']}" if bad else "the record has no REMs"
        raise TheirFault(bad[0]["id"] if bad else "rem.not-judged", f"nothing can be learnt from appraisal {record['id']}: {why}")


def _payload(client: "AdminClient", record: Mapping[str, Any], name: str) -> bytes:
    return client.get_bytes(f"/audit/v1/payloads/{record['inputs'][name]}")


def _trees(
    client: "AdminClient", record: Mapping[str, Any], algorithm: "HashAlgorithm", images: "Sequence[RegisteredImage]"
) -> "dict[bytes, RegisteredImage]":
    """Return the device trees that the RIM covers: registered ones, and the one that came along."""
    from kbs_rim.appraisal.rule_values import Role

    trees = [image for image in images if image.id in record["facts"].get("images", ()) and Role.DEVICE_TREE in image.roles]
    if "device-tree" in record["inputs"]:
        trees.append(tree_image(_payload(client, record, "device-tree"), "the device tree that came along"))
    return {tree.measurements.digests[algorithm]: tree for tree in trees}


def tree_image(data: bytes, name: str) -> "RegisteredImage":
    """Measure a device tree that the VM was started with; raise ``MalformedEvidence``."""
    from kbs_rim.appraisal.registered_image import ImageState, RegisteredImage
    from kbs_rim.appraisal.rule_values import Role
    from kbs_rim.measurement.image import measure_image

    measured = measure_image(data)
    return RegisteredImage(measured.image_id, name, (Role.DEVICE_TREE,), ImageState.ACTIVE, measured)


# --- images -----------------------------------------------------------------------------------------------------------


def images_from_files(values: Sequence[str]) -> "list[RegisteredImage]":
    """Measure files, each FILE or ROLE=FILE. Without a role a file is for what it looks like; what looks like nothing may be any file.

    Raises ``OSError``, and ``MalformedEvidence`` as for ``kbs-rim image hash``.
    """
    return [_local_image(*_role_and_file(value)) for value in values]


def _role_and_file(value: str) -> "tuple[Role | None, Path]":
    from kbs_rim.appraisal.rule_values import Role

    name, equals, path = value.partition("=")
    if equals and name in set(Role):
        return Role(name), Path(path)
    return None, Path(value)


def _local_image(role: "Role | None", file: Path) -> "RegisteredImage":
    from kbs_rim.appraisal.registered_image import ImageState, RegisteredImage
    from kbs_rim.cli.image import measure_file

    measured = measure_file(file).with_granules_of()
    return RegisteredImage(measured.image_id, file.name, (role,) if role else _roles_of(file), ImageState.ACTIVE, measured)


def _roles_of(file: Path) -> "tuple[Role, ...]":
    from kbs_rim.appraisal.rule_values import Role
    from kbs_rim.image_sources.boot_files import HEAD_BYTES, ROLE_OF_KIND, recognise
    from kbs_rim.limits import DEFAULT_LIMITS

    with file.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    role = ROLE_OF_KIND.get(recognise(file.name, head, file.stat().st_size, DEFAULT_LIMITS))
    return (role,) if role is not None else (Role.BOOT_FILE, Role.ACPI)


def images_from_registry(client: "AdminClient") -> "Iterator[RegisteredImage]":
    """Yield every image of the broker, whatever its state, without granule digests."""
    for item in client.pages("/admin/v1/images", "images"):
        yield _registered(item)


def _registered(item: Mapping[str, Any]) -> "RegisteredImage":
    from kbs_rim.appraisal.registered_image import ImageState, RegisteredImage
    from kbs_rim.appraisal.rule_values import Role
    from kbs_rim.measurement.image import ImageMeasurements

    members = ("kind", "compression", "file_size", "size", "device_tree", "pe", "volumes")
    document = {
        **{name: item[name] for name in members},
        "file_digests": _compact(item["file_digests"]),
        "digests": _compact(item["digests"]),
        "kernel": item["kernel"] and {name: hex(value) for name, value in item["kernel"].items()},
        "granules": {},
    }
    measured = ImageMeasurements.from_document(document, partial=True)
    return RegisteredImage(item["id"], item["name"], tuple(map(Role, item["roles"])), ImageState(item["state"]), measured)


def _compact(digests: Mapping[str, str]) -> dict[str, str]:
    from kbs_rim.evidence.hash_algorithm import HashAlgorithm

    return {HashAlgorithm(name).compact_name: digest for name, digest in digests.items()}
