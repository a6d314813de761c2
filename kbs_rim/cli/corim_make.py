"""``kbs-rim corim make``: a CoRIM, or another form of the same reference values, from templates, measurements or bare RIMs."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kbs_rim.cli import EXIT_OK
from kbs_rim.cli.corim_files import IN, OUT, document, moment, shown, write
from kbs_rim.cli.wording import counted
from kbs_rim.errors import InvalidDocument

if TYPE_CHECKING:
    from kbs_rim.appraisal.comid_json import CorimTemplate
    from kbs_rim.appraisal.corim_document import Comid, Corim, Entity, Profile
    from kbs_rim.appraisal.rim_set import LabelledRim

_F = TypeVar("_F", bound=Callable[..., Any])
_FORMATS = ("corim", "comid-json", "legacy-comid", "ccatoken-store")
_DAY_S = 86400


def _entity(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> "tuple[Entity, ...]":
    from kbs_rim.appraisal.corim_document import Entity

    entities = []
    for value in values:
        name, equals, uri = value.partition("=")
        try:
            entities.append(Entity(name, uri if equals else None))
        except ValueError as error:
            raise click.BadParameter(str(error)) from None
    return tuple(entities)


def identified(command: _F) -> _F:
    """Add the options that say what a CoRIM is: id, entities, validity."""
    options = (
        click.option("--id", "corim_id", metavar="ID", help="corim-id, a UUID or text. Default: a UUID that follows from the content."),
        click.option("--entity", "entities", callback=_entity, multiple=True, metavar="NAME[=URI]", help="Who made it. Repeatable."),
        click.option("--not-before", callback=moment, metavar="TIME", help="Beginning of its validity."),
        click.option("--not-after", callback=moment, metavar="TIME", help="End of its validity."),
        click.option("--days", type=click.IntRange(1, 36500), help="End of its validity in days, instead of --not-after."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def end_of(not_after: int | None, days: int | None) -> int | None:
    """Return the end of a validity from the two options that give it."""
    import time

    if days is None:
        return not_after
    if not_after is not None:
        raise click.UsageError("--days and --not-after say the same: give one")
    return int(time.time()) + days * _DAY_S


def _rem(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """REMs by number; without a number they count from 0."""
    found: dict[str, str] = {}
    for value in values:
        number, equals, digits = value.rpartition("=")
        key = number if equals else str(len(found))
        if key in found:
            raise click.BadParameter(f"REM{key} is given twice")
        found[key] = digits
    return found


@click.command()
@click.argument("files", nargs=-1, type=IN)
@click.option("--template", type=IN, help="CoRIM template (JSON, TOML) with id, profile, entities and validity, as cocli has it.")
@click.option("--rim", metavar="HEX", help="A realm's RIM.")
@click.option("--rem", "rems", callback=_rem, multiple=True, metavar="[N=]HEX", help="REM N of that realm; without N they count from 0.")
@click.option("--rpv", metavar="HEX", help="Personalization value of that realm, zero padded to 64 bytes.")
@click.option("--label", default="realm", show_default=True, help="What a RIM without a label is called: the tag-id of its CoMID.")
@identified
@click.option("--format", "kind", type=click.Choice(_FORMATS), default="corim", show_default=True, help="What to write.")
@click.option("--comid-template", type=IN, help="For legacy-comid: the file that cca-realm-measurements takes as template.")
@click.option("--output", "-o", type=OUT, default="-", show_default=True, help="Where to write it; - is standard output.")
@click.option("--json", "as_json", is_flag=True, help="With --output FILE: print on stdout what was written.")
def make(
    files: tuple[Path, ...],
    template: Path | None,
    rim: str | None,
    rems: Mapping[str, str],
    rpv: str | None,
    label: str,
    corim_id: str | None,
    entities: "tuple[Entity, ...]",
    not_before: int | None,
    not_after: int | None,
    days: int | None,
    kind: str,
    comid_template: Path | None,
    output: Path,
    *,
    as_json: bool,
) -> int:
    """Write a CoRIM, unsigned, of everything in FILES.

    A file is a CoMID or a rust-ccatoken store in JSON or TOML, or what `kbs-rim measure --json` printed. The same
    content gives the same bytes and, without --id, the same id.
    """
    if (rems or rpv) and rim is None:
        raise click.UsageError("--rem and --rpv belong to --rim")
    given = [{"rim": rim, "rem": rems, "rpv": rpv, "label": label}] if rim is not None else []
    head = _template(template)
    profile, comids = _gather(files, given, label)
    if head.profile not in (None, profile):
        raise InvalidDocument("endorsement.profile", "the template has another profile than the files", expected=profile.value)
    corim = _corim(head, profile, comids, corim_id, entities, not_before, end_of(not_after, days))
    write(output, _encoded(corim, kind, comid_template))
    if str(output) != "-":
        _report(corim, kind, output, as_json=as_json)
    return EXIT_OK


def _template(path: Path | None) -> "CorimTemplate":
    from kbs_rim.appraisal.comid_json import CorimTemplate, read_json_corim
    from kbs_rim.limits import DEFAULT_LIMITS

    return CorimTemplate() if path is None else read_json_corim(document(path, DEFAULT_LIMITS.endorsement_bytes))


def _gather(files: tuple[Path, ...], given: list[Any], label: str) -> "tuple[Profile, tuple[Comid, ...]]":
    """Return the CoMIDs of everything given, and the one profile under which they stand."""
    from kbs_rim.appraisal.corim_document import Profile
    from kbs_rim.appraisal.rim_set import read_rims, rim_set_corim
    from kbs_rim.limits import DEFAULT_LIMITS

    found: list[tuple[Profile, Comid]] = []
    measured: list[LabelledRim] = [rim for item in given for rim in read_rims(item, label)]
    for path in files:
        content = document(path, DEFAULT_LIMITS.endorsement_bytes)
        name = label if label != "realm" or str(path) == "-" else path.stem
        if isinstance(content, dict) and "triples" in content:
            found.append(_comid_of(content, path))
        elif _is_store(content):
            found += _comids_of_store(content, path.stem)
        else:
            measured += read_rims(content, name)
    if measured:
        found += ((Profile.REALM, comid) for comid in rim_set_corim(measured).comids)
    profiles = {profile for profile, _ in found}
    if not profiles:
        raise click.UsageError("nothing to make a CoRIM of: give files, or --rim")
    if len(profiles) > 1:
        raise InvalidDocument("endorsement.unwritable", "realms and platforms have different profiles: make a CoRIM of each")
    return profiles.pop(), tuple(comid for _, comid in found)


def _comid_of(content: dict[str, Any], path: Path) -> "tuple[Profile, Comid]":
    from kbs_rim.appraisal.comid_json import read_json_comid

    try:
        return read_json_comid(content)
    except InvalidDocument as error:
        raise InvalidDocument(error.finding_id, f"{path}: {error.message}", expected=error.expected, seen=error.seen) from None


def _is_store(content: Any) -> bool:
    """Whether this is a rust-ccatoken store: reference values, or a list of trust anchors."""
    if isinstance(content, list):
        return bool(content) and all(isinstance(item, dict) and "pkey" in item for item in content)
    return isinstance(content, dict) and bool({"platform", "realm"} & set(content))


def _comids_of_store(content: Any, name: str) -> "list[tuple[Profile, Comid]]":
    """A store may hold realms and platforms; each kind becomes a CoMID that is named after the file."""
    from kbs_rim.appraisal.corim_document import Comid, Profile
    from kbs_rim.appraisal.endorsement_files import parse_endorsements
    from kbs_rim.appraisal.endorsements import Endorsements

    held = parse_endorsements(json.dumps(content).encode(), at=0)
    platform = Endorsements(platforms=held.platforms, trust_anchors=held.trust_anchors)
    parts = ((Profile.PLATFORM, platform), (Profile.REALM, Endorsements(realms=held.realms)))
    return [(profile, Comid(tag_id=name, endorsements=part)) for profile, part in parts if part != Endorsements()]


def _corim(
    head: "CorimTemplate",
    profile: "Profile",
    comids: "tuple[Comid, ...]",
    corim_id: str | None,
    entities: "tuple[Entity, ...]",
    not_before: int | None,
    not_after: int | None,
) -> "Corim":
    from kbs_rim.appraisal.corim_document import Corim, read_id
    from kbs_rim.appraisal.corim_writer import content_id

    identity = read_id(corim_id) if corim_id else head.id
    try:
        corim = Corim(
            id=identity or "-",
            profile=profile,
            comids=comids,
            entities=entities or head.entities,
            not_before=head.not_before if not_before is None else not_before,
            not_after=head.not_after if not_after is None else not_after,
        )
    except ValueError as error:
        raise InvalidDocument("endorsement.unwritable", str(error)) from None
    return corim if identity else replace(corim, id=content_id(corim))


def _encoded(corim: "Corim", kind: str, comid_template: Path | None) -> bytes:
    from kbs_rim.appraisal.comid_template import comid_document, legacy_comid
    from kbs_rim.appraisal.corim_writer import encode_corim
    from kbs_rim.appraisal.endorsement_files import store_document

    if comid_template is not None and kind != "legacy-comid":
        raise click.UsageError("--comid-template is for --format legacy-comid")
    if kind == "corim":
        return encode_corim(corim)
    held = corim.endorsements
    if kind == "ccatoken-store":
        return _json(store_document(held))
    if kind == "legacy-comid":
        if len(held.realms) != 1:
            raise InvalidDocument("endorsement.unwritable", "a legacy CoMID holds exactly one realm", seen=str(len(held.realms)))
        content = None if comid_template is None else document(comid_template, 1 << 20)
        return legacy_comid(held.realms[0], content).encode()
    if len(corim.comids) != 1:
        raise InvalidDocument("endorsement.unwritable", "a JSON file holds exactly one CoMID", seen=str(len(corim.comids)))
    return _json(comid_document(corim.comids[0]))


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


def _report(corim: "Corim", kind: str, output: Path, *, as_json: bool) -> None:
    held = corim.endorsements
    counts = {"trust_anchors": len(held.trust_anchors), "platforms": len(held.platforms), "realms": len(held.realms)}
    if as_json:
        facts = {"id": str(corim.id), "profile": corim.profile.value, "not_after": shown(corim.not_after)}
        click.echo(json.dumps({"file": str(output), "format": kind, **facts, **counts}, indent=2))
        return
    content = ", ".join(counted(count, name.replace("_", " ").removesuffix("s")) for name, count in counts.items() if count)
    click.echo(f"{output}: {kind} {corim.id}, {content}")
