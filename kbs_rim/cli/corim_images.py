"""``kbs-rim corim describe | export | import``: images, down to their granules, from one administrator to another (docs/corim.md)."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kbs_rim.cli import EXIT_OK
from kbs_rim.cli.admin_client import AdminClient, connect, connected, print_json
from kbs_rim.cli.corim_files import IN, OUT, certificates, read, trusted_keys, write
from kbs_rim.cli.corim_make import end_of, identified
from kbs_rim.cli.wording import counted
from kbs_rim.errors import ConfigurationError, InvalidDocument, TheirFault

if TYPE_CHECKING:
    from kbs_rim.appraisal.corim_document import Entity, TagId
    from kbs_rim.appraisal.image_reference import BuildPlan, ImageReference

_MAX_PROVENANCE = 4000
_SAID = "corim-says-"
"""In front of words of provenance that a CoRIM brought."""
_ROLES = ("kernel", "initrd", "firmware", "device-tree")
_summary = click.option("--summary", is_flag=True, help="Leave the granule digests out: good for comparing, not for importing.")
_output = click.option("--output", "-o", type=OUT, default="-", show_default=True, help="Where to write it; - is standard output.")


def _file_role(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> list[tuple[str, Path]]:
    pairs = []
    for value in values:
        role, equals, file = value.partition("=")
        if not equals or role not in _ROLES or not file:
            raise click.BadParameter(f"write ROLE=FILE with a role of {', '.join(_ROLES)}, not {value!r}")
        pairs.append((role, Path(file)))
    return pairs


@click.command()
@click.option("--image", "images", callback=_file_role, multiple=True, required=True, metavar="ROLE=FILE", help="An image. Repeatable.")
@click.option("--log", type=IN, help="VMM log of a realm that loaded them: adds its build plan, which anybody can recompute.")
@click.option("--rmm", type=click.Choice(["1.0", "2.0"]), default="1.0", show_default=True, help="RMM version of that realm.")
@_summary
@identified
@_output
def describe(
    images: list[tuple[str, Path]],
    log: Path | None,
    rmm: str,
    summary: bool,
    corim_id: str | None,
    entities: "tuple[Entity, ...]",
    not_before: int | None,
    not_after: int | None,
    days: int | None,
    output: Path,
) -> int:
    """Describe image files in a CoRIM of the image profile, unsigned. Nothing is sent anywhere."""
    from kbs_rim.appraisal.image_reference import ImageReference
    from kbs_rim.appraisal.workload import Role
    from kbs_rim.cli.image import measure_file

    by_file: dict[Path, list[Role]] = {}
    for role, file in images:
        by_file.setdefault(file, []).append(Role(role))
    described = [ImageReference(measure_file(file), file.name, tuple(roles)) for file, roles in by_file.items()]
    plans = [] if log is None else [_plan(log, rmm, described)]
    shown = [image.summarised() for image in described] if summary else described
    identity, until = corim_id, end_of(not_after, days)
    write(output, _encoded(shown, plans, identity, entities, not_before, until))
    if str(output) != "-":
        click.echo(f"{output}: {counted(len(shown), 'image')}")
    return EXIT_OK


def _plan(log: Path, rmm: str, images: "Iterable[ImageReference]") -> "BuildPlan":
    """Return the build plan of a VMM log, with the RIM that it gives with these images."""
    from kbs_rim.appraisal.image_reference import BuildPlan
    from kbs_rim.evidence.tcg_log import LogKind, parse_tcg_log
    from kbs_rim.limits import DEFAULT_LIMITS
    from kbs_rim.measurement.boot_plan import boot_plan_from_log
    from kbs_rim.measurement.dialect import Dialect
    from kbs_rim.measurement.rmm import RmmVersion

    boot = boot_plan_from_log(parse_tcg_log(read(log, DEFAULT_LIMITS.log_bytes), LogKind.VMM))
    return BuildPlan.computed(boot, images, Dialect(RmmVersion(rmm)))


@click.command(name="export")
@click.argument("image_ids", metavar="ID...", nargs=-1)
@click.option("--workload", "workloads", multiple=True, help="Every image that this workload names. Repeatable.")
@_summary
@identified
@_output
@connected
def export(
    image_ids: tuple[str, ...],
    workloads: tuple[str, ...],
    summary: bool,
    corim_id: str | None,
    entities: "tuple[Entity, ...]",
    not_before: int | None,
    not_after: int | None,
    days: int | None,
    output: Path,
    url: str,
    token_file: Path | None,
    ca_file: Path | None,
    *,
    as_json: bool,
) -> int:
    """Describe registered images in a CoRIM of the image profile, unsigned. Revoked images are refused."""
    client = connect(url, token_file, ca_file)
    wanted = dict.fromkeys((*image_ids, *(image for name in workloads for image in _images_of(client, name))))
    if not wanted:
        raise click.UsageError("name images, or a --workload")
    images = [_registered(client, image) for image in wanted]
    shown = [image.summarised() for image in images] if summary else images
    write(output, _encoded(shown, [], corim_id, entities, not_before, end_of(not_after, days)))
    if str(output) != "-":
        report = {"file": str(output), "images": [image.measurements.image_id for image in images]}
        click.echo(json.dumps(report, indent=2) if as_json else f"{output}: {counted(len(images), 'image')}")
    return EXIT_OK


def _images_of(client: AdminClient, workload: str) -> list[str]:
    from kbs_rim.appraisal.workload import parse_workload

    return sorted(parse_workload(client.get(f"/admin/v1/workloads/{workload}")["workload"]).image_ids)


def _registered(client: AdminClient, image_id: str) -> "ImageReference":
    from kbs_rim.appraisal.image_reference import ImageReference
    from kbs_rim.appraisal.workload import Role
    from kbs_rim.measurement.image import ImageMeasurements

    image = client.get(f"/admin/v1/images/{image_id}")
    if image["state"] == "revoked":
        raise InvalidDocument("registry.image-revoked", f"{image['name']} is revoked, and not to be recommended to others", seen=image_id)
    measured = ImageMeasurements.from_document(client.get(f"/admin/v1/images/{image_id}/measurements"))
    return ImageReference(measured, image["name"], tuple(Role(role) for role in image["roles"]), _texts(image["provenance"]))


def _texts(provenance: Mapping[str, Any]) -> dict[str, str]:
    """Provenance may be nested; in a CoRIM it is text by text."""
    from kbs_rim.evidence.printable import printable

    plain = {name: text if isinstance(text, str) else json.dumps(text, sort_keys=True) for name, text in provenance.items()}
    return {name: printable(text, _MAX_PROVENANCE) for name, text in plain.items() if name and text}


def _encoded(
    images: "Iterable[ImageReference]",
    plans: "Iterable[BuildPlan]",
    corim_id: str | None,
    entities: "tuple[Entity, ...]",
    not_before: int | None,
    not_after: int | None,
) -> bytes:
    """One CoMID for each image, named by its id, and one for each plan."""
    from dataclasses import replace

    from kbs_rim.appraisal.corim_document import Comid, Corim, Profile, read_id
    from kbs_rim.appraisal.corim_writer import content_id, encode_corim
    from kbs_rim.limits import DEFAULT_LIMITS

    comids = [Comid(tag_id=image.measurements.image_id, images=(image,)) for image in images]
    comids += [Comid(tag_id=f"rim:{plan.rim.hex()}", plans=(plan,)) for plan in plans]
    identity: TagId = read_id(corim_id) if corim_id else "-"
    corim = Corim(id=identity, profile=Profile.IMAGE, comids=tuple(comids), entities=entities, not_before=not_before, not_after=not_after)
    data = encode_corim(corim if corim_id else replace(corim, id=content_id(corim)))
    if len(data) > DEFAULT_LIMITS.image_corim_bytes:
        message = "too many granule digests for one CoRIM: describe fewer images at once, or give --summary"
        raise InvalidDocument(
            "endorsement.unwritable", message, expected=f"at most {DEFAULT_LIMITS.image_corim_bytes} bytes", seen=str(len(data))
        )
    return data


@click.command(name="import")
@click.argument("file", type=IN)
@click.option("--root", "roots", type=IN, multiple=True, help="Certificate that the signer's chain must lead to. Repeatable.")
@click.option("--key", "keys", type=IN, multiple=True, help="Public key (PEM, JWK or certificate) that may have signed. Repeatable.")
@click.option("--dry-run", is_flag=True, help="Verify and show what would be registered.")
@connected
def import_(
    file: Path,
    roots: tuple[Path, ...],
    keys: tuple[Path, ...],
    dry_run: bool,
    url: str,
    token_file: Path | None,
    ca_file: Path | None,
    *,
    as_json: bool,
) -> int:
    """Register the images of FILE, a CoRIM of the image profile, signed by a given key or under a given root.

    All of them are verified before they are registered, in one transaction. Where an image comes from stays with it: the CoRIM's id,
    the key or certificate that verified it, and what the signer says. Whoever signs can make any image trusted here; workloads still
    decide which images may boot.
    """
    images, provenance = _verified(file, roots, keys)
    client = None if dry_run else connect(url, token_file, ca_file)
    registered = _register(client, images, provenance)
    if as_json:
        print_json({"images": registered, "registered": not dry_run})
        return EXIT_OK
    for image in registered:
        click.echo(f"{image['id']} {image['name']}")
    if dry_run:
        click.echo("kbs-rim: verified; nothing was registered", err=True)
    return EXIT_OK


def _verified(file: Path, roots: tuple[Path, ...], keys: tuple[Path, ...]) -> "tuple[tuple[ImageReference, ...], dict[str, str]]":
    import time

    from kbs_rim.appraisal.corim import verify_corim
    from kbs_rim.appraisal.corim_document import Profile
    from kbs_rim.evidence.printable import printable
    from kbs_rim.limits import DEFAULT_LIMITS

    if not roots and not keys:
        raise click.UsageError("whose word is it? Give --key or --root: images are imported from signed files only")
    most, now = DEFAULT_LIMITS.image_corim_bytes, int(time.time())
    found = verify_corim(read(file, most), roots=certificates(roots), keys=trusted_keys(keys), at=now, max_bytes=most)
    corim = found.corim
    if corim.profile is not Profile.IMAGE:
        raise InvalidDocument("endorsement.profile", "not a CoRIM of images", expected=Profile.IMAGE.value, seen=corim.profile.value)
    if not corim.endorsements.valid_at(now):
        raise InvalidDocument("endorsement.validity", "the CoRIM is outside its validity")
    if incomplete := [image.name for image in corim.images if not image.complete]:
        raise InvalidDocument(
            "endorsement.malformed", f"granule digests are missing: {', '.join(incomplete)[:200]}; export without --summary"
        )
    said = found.signature.signer if found.signature else None
    words = {"corim": str(corim.id), "corim-signer": found.verified_by or "", "corim-signer-says": said or "not named"}
    return corim.images, {name: printable(text, 200) for name, text in words.items()}


def _register(client: AdminClient | None, images: "Sequence[ImageReference]", provenance: dict[str, str]) -> list[dict[str, Any]]:
    """Register all of them or none; without ``client`` say what would be registered."""
    if client is None:
        return [{"id": image.measurements.image_id, "name": image.name, "roles": [role.value for role in image.roles]} for image in images]
    for image in images:
        _refuse_new_parts(client, image)
    documents = [
        {
            "name": image.name,
            "roles": [role.value for role in image.roles],
            "measurements": image.measurements.to_document(),
            "provenance": {**_second_hand(image.provenance), **provenance},
        }
        for image in images
    ]
    answers = client.send("POST", "/admin/v1/images/batch", {"images": documents}).get("images")
    if not isinstance(answers, list):
        raise ConfigurationError("the broker's answer has no images: is --url its internal listener?")
    return [{name: answer["image"][name] for name in ("id", "name", "roles")} for answer in answers]


def _refuse_new_parts(client: AdminClient, image: "ImageReference") -> None:
    """Refuse what would give an image that is known already further digests, under which workloads that name it would let other bytes in.

    Who has the bytes may add them (``kbs-rim image add``); a signer may only describe images that no workload names yet.
    """
    identity, measured = image.measurements.image_id, image.measurements
    try:
        known = client.get(f"/admin/v1/images/{identity}")
    except TheirFault as refusal:
        if refusal.finding_id != "registry.image-unknown":
            raise
        return
    if (measured.pe or measured.volumes) and not (known["pe"] or known["volumes"]):
        message = f"{known['name']} is registered without the parts that the CoRIM says it has: if you have the file, kbs-rim image add it"
        raise InvalidDocument("registry.image-differs", message, seen=identity)


def _second_hand(provenance: Mapping[str, str]) -> dict[str, str]:
    """What the CoRIM says of an image's origin was checked by its signer, if by anybody: it must not read as if it was checked here."""
    return {name if name.startswith(_SAID) else f"{_SAID}{name}": text for name, text in provenance.items()}
