"""``kbs-rim appraisal explain``: files compared with registered images here, where the files are, and the text for people."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from kbs_rim.cli.admin_client import AdminClient
from kbs_rim.errors import InvalidDocument, MalformedEvidence, TheirFault
from kbs_rim.evidence.printable import printable

_MAX_LISTED = 10
_PLACES = ("workload", "event", "role", "description", "image", "node", "property", "register", "address")
_NOT_THIS_FILE = "this is none of the unknown images that the log names: the realm loaded another file"


def compare_images(client: AdminClient, answer: dict[str, Any], files: tuple[Path, ...]) -> list[dict[str, Any]]:
    """Compare each file that an unknown-image finding is about with the nearest registered image; return what differs.

    A file that cannot be compared is in the answer too, with the reason as its ``problem``.
    """
    from kbs_rim.cli.image import measure_file

    unknown = [reason for reason in answer["reasons"] if reason["finding"]["id"] == "rim.image-unknown"]
    differences = []
    for file in files:
        image = measure_file(file)
        digests = {digest.hex() for digest in image.digests.values()}
        about = [reason for reason in unknown if reason["finding"].get("seen") in digests]
        differences += [_difference(client, reason, file, image) for reason in about]
        if not about:
            differences.append(
                _beside_loaded(client, answer, file, image) if not unknown else {"file": str(file), "problem": _NOT_THIS_FILE}
            )
    return differences


def _beside_loaded(client: AdminClient, answer: dict[str, Any], file: Path, image: Any) -> dict[str, Any]:
    """Compare a file with the images that the log names, all of them registered: one of them was perhaps not what was loaded."""
    from kbs_rim.appraisal.explain import differing_granules
    from kbs_rim.evidence.hash_algorithm import HashAlgorithm
    from kbs_rim.limits import DEFAULT_LIMITS
    from kbs_rim.measurement.boot_plan import LoadedImage
    from kbs_rim.measurement.image import ImageMeasurements

    ids = answer["appraisal"]["facts"].get("images", [])
    if image.image_id in ids:
        return {"file": str(file), "problem": "this is registered, and the log names it: these bytes are not what differs"}
    if not ids or all(reason["finding"]["id"] != "rim.mismatch" for reason in answer["reasons"]):
        return {"file": str(file), "problem": "nothing to compare: the log names no unknown image"}
    known = []
    for image_id in ids:
        with suppress(TheirFault):  # a tree that came with the evidence is registered nowhere
            known.append(client.get(f"/admin/v1/images/{image_id}"))
    if not known:
        return {"file": str(file), "problem": "nothing to compare: no image of the log is registered any more"}
    near = min(known, key=lambda item: abs(item["size"] - image.size))
    registered = ImageMeasurements.from_document(client.get(f"/admin/v1/images/{near['id']}/measurements"), DEFAULT_LIMITS)
    # The findings do not say where it lies; granules are counted from its start.
    sha256 = HashAlgorithm.SHA256
    difference = differing_granules(image, registered, LoadedImage(0, "", 0, image.size, image.digests[sha256], sha256), _MAX_LISTED)
    if difference is None:
        return {"file": str(file), "problem": f"cannot be compared with {near['name']}"}
    granules = [{"index": index, "address": f"offset {address:#x}"} for index, address in difference.first]
    result = {"file": str(file), "nearest": near["id"], "name": near["name"], "granules": granules}
    return {**result, "differing": difference.count, "compared": difference.compared}


def _difference(client: AdminClient, reason: dict[str, Any], file: Path, image: Any) -> dict[str, Any]:
    from kbs_rim.appraisal.explain import differing_granules
    from kbs_rim.evidence.hash_algorithm import HashAlgorithm
    from kbs_rim.limits import DEFAULT_LIMITS
    from kbs_rim.measurement.boot_plan import LoadedImage
    from kbs_rim.measurement.image import ImageMeasurements

    finding = reason["finding"]
    if not reason["nearest"]:
        return {"file": str(file), "event": finding["where"]["event"], "problem": "no image is registered that it could be compared with"}
    near = reason["nearest"][0]
    result: dict[str, Any] = {"file": str(file), "event": finding["where"]["event"], "nearest": near["id"], "name": near["name"]}
    try:
        document = client.get(f"/admin/v1/images/{near['id']}/measurements")
        registered = ImageMeasurements.from_document(document, DEFAULT_LIMITS)
        algorithm = next(algorithm for algorithm in HashAlgorithm if image.digests[algorithm].hex() == finding["seen"])
        where = finding["where"]
        loaded = LoadedImage(
            where["event"], where["description"], int(where["address"], 16), image.size, image.digests[algorithm], algorithm
        )
        difference = differing_granules(image, registered, loaded, _MAX_LISTED)
    except (InvalidDocument, MalformedEvidence, ValueError) as error:
        return {**result, "problem": f"cannot be compared: {error}"}
    if difference is None:
        return {**result, "problem": "the two do not have a layout in common at this address"}
    granules = [{"index": index, "address": hex(address)} for index, address in difference.first]
    return {**result, "differing": difference.count, "compared": difference.compared, "granules": granules}


def verifier_problem(facts: dict[str, Any]) -> str | None:
    """Return what the external verifier complains of in its own words, fit for a terminal; None if it does not."""
    problem = facts.get("platform", {}).get("claims", {}).get("problem")
    return printable(str(problem)) if problem else None


def definition_summary(facts: dict[str, Any]) -> str | None:
    """Return what came of a search among the VMs that the workload defines, in one line; None if a log came."""
    found = facts.get("definition")
    if not found:
        return None
    again = ", as was found before" if found["remembered"] else ""
    if "vm" not in found:
        return f"none of {found['vms']} VMs, {found['tried']} of them tried{again}"
    vm = found["vm"]
    size = f"{vm['ram'] >> 30} GiB" if not vm["ram"] % (1 << 30) else f"{vm['ram'] >> 20} MiB"
    sve = f"SVE {vm['sve_bits']} bits" if vm["sve_bits"] else "SVE off"
    pmu = "PMU off" if vm["pmu_counters"] is None else f"PMU with {vm['pmu_counters']} counters"
    command_line = "" if vm["bootargs"] is None else f", command line {printable(vm['bootargs'])!r}"
    return f"VM {found['number']} of {found['vms']}{again}: {vm['cpus']} vCPUs, {size}, {sve}, {pmu}{command_line}"


def runtime_summary(facts: dict[str, Any]) -> str | None:
    """Return what the record says of the REMs that logs explain, in one line; None if logs explain none."""
    runtime = facts.get("runtime")
    if not runtime:
        return None
    logs = ", ".join(f"{count} in {name}" for name, count in runtime["logs"].items()) or "no logs"
    classes = ", ".join(f"{count} {name}" for name, count in runtime["classes"].items()) or "none"
    return f"events: {logs}; known as: {classes}"


def measured_images(facts: dict[str, Any]) -> list[tuple[str, int, str, str, str]]:
    """Return the registered images that were measured into REMs: register, event, role, what of it, id."""
    found = (facts.get("runtime") or {}).get("images", ())
    return [(f"REM{item['rem']}", item["event"], item["role"], printable(item["what"]), item["image"]) for item in found]


def print_explanation(answer: dict[str, Any]) -> None:
    """Print an explanation as text."""
    record = answer["appraisal"]
    click.echo(f"{record['verdict']}: secret {record['secret'] or 'unknown'}, workload {record['workload'] or 'none'}, {record['at']}")
    if problem := verifier_problem(record["facts"]):
        click.echo(f"The verifier says: {problem}")
    if derived := definition_summary(record["facts"]):
        click.echo(f"No log; from the workload's definition: {derived}")
    if runtime := runtime_summary(record["facts"]):
        click.echo(f"REMs by logs: {runtime}")
    for register, event, role, what, _ in measured_images(record["facts"]):
        click.echo(f"  {register} event {event}: {role}, {what}")
    if not answer["reasons"]:
        click.echo("Nothing was refused.")
    for reason in answer["reasons"]:
        _print_reason(reason)
    for difference in answer["differences"]:
        _print_difference(difference)


def _print_reason(reason: dict[str, Any]) -> None:
    finding = reason["finding"]
    click.echo(f"\n{finding['id']} (step {finding['step']}): {finding['message']}")
    for name in ("expected", "seen"):
        if finding.get(name) is not None:
            # One replay a line: each has a digest of its own.
            lines = finding[name].split("; ") if finding["id"] == "rim.mismatch" else [finding[name]]
            click.echo(f"  {name}: " + "\n            ".join(lines))
    place = finding.get("where", {})
    # From the large to the small; a record has its members in the order of the alphabet.
    where = ", ".join(f"{name} {place[name]}" for name in sorted(place, key=_rank))
    if where:
        click.echo(f"  where: {where}")
    click.echo(f"  {reason['title']} {reason['remedy']}")
    for hint in reason["hints"]:
        click.echo(f"  - {hint}")
    for near in reason["nearest"]:
        more = near["size_difference"]
        size = f"{abs(more)} bytes {'smaller' if more > 0 else 'larger'} than the log's" if more else "same size"
        click.echo(f"  near: {near['name']} ({near['state']}, {size}) {near['id']}")


def _rank(name: str) -> tuple[int, str]:
    return (_PLACES.index(name) if name in _PLACES else len(_PLACES), name)


def _print_difference(difference: dict[str, Any]) -> None:
    event = f" (event {difference['event']})" if "event" in difference else ""
    head = f"\n{difference['file']}{event}" + (f" and {difference['name']}: " if "name" in difference else ": ")
    if "problem" in difference:
        click.echo(head + difference["problem"])
        return
    click.echo(f"{head}{difference['differing']} of {difference['compared']} granules differ")
    for granule in difference["granules"]:
        click.echo(f"  granule {granule['index']} at {granule['address']}")
    if difference["differing"] > len(difference["granules"]):
        click.echo(f"  and {difference['differing'] - len(difference['granules'])} more")
