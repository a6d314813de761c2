"""A CoRIM for people and for scripts."""

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from kbs_rim.cli.corim_files import shown

if TYPE_CHECKING:
    from kbs_rim.appraisal.corim import CorimFile
    from kbs_rim.appraisal.corim_document import Comid, Entity
    from kbs_rim.appraisal.corim_signature import CorimSignature
    from kbs_rim.appraisal.image_reference import BuildPlan, ImageReference

Row = tuple[str, object]
_PIPE_COLUMNS = 4000
_LONGEST_VALUE = 2000


def describe(file: "CorimFile", verified_by: str | None) -> dict[str, Any]:
    """Return a CoRIM as JSON; bytes in hex, no granule digests."""
    corim = file.corim
    return {
        "id": str(corim.id),
        "profile": corim.profile.value,
        "not_before": shown(corim.not_before),
        "not_after": shown(corim.not_after),
        "entities": [_entity(entity) for entity in corim.entities],
        "signature": None if file.signature is None else _signature(file.signature, verified_by),
        "comids": [_comid(comid) for comid in corim.comids],
    }


def _entity(entity: "Entity") -> dict[str, Any]:
    return {"name": entity.name, "uri": entity.uri, "roles": list(entity.roles)}


def _signature(signature: "CorimSignature", verified_by: str | None) -> dict[str, Any]:
    return {
        "algorithm": signature.algorithm_name,
        "signer": signature.signer,
        "uri": signature.signer_uri,
        "not_before": shown(signature.not_before),
        "not_after": shown(signature.not_after),
        "kid": None if signature.kid is None else signature.kid.hex(),
        "chain": [certificate.subject.rfc4514_string() for certificate in signature.chain],
        "verified": verified_by is not None,
        "verified_by": verified_by,
    }


def _comid(comid: "Comid") -> dict[str, Any]:
    held = comid.endorsements
    return {
        "id": str(comid.tag_id),
        "version": comid.version,
        "language": comid.language,
        "entities": [_entity(entity) for entity in comid.entities],
        "trust_anchors": [
            {"implementation_id": anchor.implementation_id.hex(), "instance_id": anchor.instance_id.hex(), "key": _key(anchor.key)}
            for anchor in held.trust_anchors
        ],
        "platforms": [
            {
                "implementation_id": platform.implementation_id.hex(),
                "components": [
                    {"type": part.measurement_type, "digest": part.digest.hex(), "signer_id": part.signer_id.hex(), "version": part.version}
                    for part in platform.components
                ],
                "config": None if platform.config is None else platform.config.hex(),
            }
            for platform in held.platforms
        ],
        "realms": [
            {
                "rim": realm.rim.hex(),
                "rems": {str(number): value.hex() for number, value in sorted(realm.rems.items())},
                "rpv": None if realm.rpv is None else realm.rpv.hex(),
            }
            for realm in held.realms
        ],
        "images": [_image(image) for image in comid.images],
        "plans": [_plan(plan) for plan in comid.plans],
    }


def _key(key: Any) -> str:
    from kbs_rim.appraisal.published_keys import thumbprint

    return thumbprint(key)


def _image(image: "ImageReference") -> dict[str, Any]:
    from kbs_rim.measurement.image_document import digests_to_document

    measured = image.measurements
    return {
        "id": measured.image_id,
        "name": image.name,
        "roles": [role.value for role in image.roles],
        "provenance": dict(image.provenance),
        "kind": measured.kind.value,
        "compression": None if measured.compression is None else measured.compression.value,
        "size": measured.size,
        "digests": digests_to_document(measured.digests),
        "complete": image.complete,
        "granules": {
            f"{algorithm.compact_name}/{alignment.value}": summary.hex() for (algorithm, alignment), summary in image.summaries.items()
        },
    }


def _plan(plan: "BuildPlan") -> dict[str, Any]:
    params = plan.boot.create.params
    return {
        "rim": plan.rim.hex(),
        "hash_algorithm": plan.boot.hash_algorithm.value,
        "dialect": str(plan.dialect),
        "ipa_bits": params.s2sz,
        "flags": params.flags,
        "vcpus": len(plan.boot.recs),
        "ram": [[hex(step.base), hex(step.size)] for step in plan.boot.ripas],
        "images": [[loaded.description, hex(loaded.base), loaded.size, loaded.digest.hex()] for loaded in plan.boot.images],
    }


# --- for people -------------------------------------------------------------------------------------------------------


def rows(file: "CorimFile", verified_by: str | None) -> Iterator[Row]:
    """Yield names and values."""
    document = describe(file, verified_by)
    yield "CoRIM", document["id"]
    yield "profile", f"{document['profile']} ({file.corim.profile.name.lower()})"
    yield "validity", _validity(document)
    for entity in document["entities"]:
        yield "entity", _named(entity["name"], entity["uri"])
    signature = document["signature"]
    if signature is None:
        yield "signature", "none: it is worth what its source is worth"
    else:
        state = f"verified by {verified_by}" if verified_by else "NOT VERIFIED: give --root or --key"
        yield "signature", f"{signature['algorithm']}, {state}"
        yield "signer", _named(signature["signer"] or "not named", signature["uri"])
        yield "signature's validity", _validity(signature)
        yield from (("certificate", subject) for subject in signature["chain"])
    for comid in document["comids"]:
        yield "CoMID", f"{comid['id']}, version {comid['version']}"
        yield from _content_rows(comid)


def _named(name: str, uri: str | None) -> str:
    return f"{name} <{uri}>" if uri else name


def _validity(document: dict[str, Any]) -> str:
    if document["not_after"] is None:
        return "unlimited"
    return f"{document['not_before'] or 'always'} to {document['not_after']}"


def _content_rows(comid: dict[str, Any]) -> Iterator[Row]:
    for anchor in comid["trust_anchors"]:
        yield "  trust anchor", f"instance {anchor['instance_id']}"
        yield "    implementation", anchor["implementation_id"]
        yield "    key", anchor["key"]
    for platform in comid["platforms"]:
        yield "  platform", f"implementation {platform['implementation_id']}"
        for part in platform["components"]:
            yield f"    {part['type'] or 'component'}", f"{part['digest']}, signer {part['signer_id']}"
        if platform["config"] is not None:
            yield "    configuration", platform["config"]
    for realm in comid["realms"]:
        yield "  RIM", realm["rim"]
        yield from ((f"    REM{number}", value) for number, value in realm["rems"].items())
        if realm["rpv"] is not None:
            yield "    RPV", realm["rpv"]
    for image in comid["images"]:
        yield (
            "  image",
            f"{image['name']}, {image['kind']}, {image['size']} bytes" + (f", {image['compression']}" if image["compression"] else ""),
        )
        yield "    id", image["id"]
        yield "    roles", ", ".join(image["roles"]) or "none"
        yield "    granules", "complete" if image["complete"] else "digests over them only"
        yield from ((f"    {name}", text) for name, text in image["provenance"].items())
    for plan in comid["plans"]:
        yield "  build plan", f"RIM {plan['rim']}"
        yield "    dialect", f"{plan['dialect']}, {plan['hash_algorithm']}, {plan['ipa_bits']} IPA bits, {plan['vcpus']} vCPUs"
        yield from (("    loads", f"{name} at {base}, {size} bytes") for name, base, size, _digest in plan["images"])


def print_rows(found: Iterable[Row]) -> None:
    """Print names and values as text, never as markup; into a pipe or file no line is folded, so that digests stay in one piece."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from kbs_rim.evidence.printable import printable

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for name, value in found:
        table.add_row(printable(name), Text(printable(str(value), _LONGEST_VALUE)))
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else _PIPE_COLUMNS)
    with console.capture() as capture:
        console.print(table)
    click.echo("\n".join(line.rstrip() for line in capture.get().splitlines()))
