"""``kbs-rim corim publish``: a workload's RIM set as a realm CoRIM, for verifiers that only compare RIMs."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kbs_rim.cli import EXIT_OK
from kbs_rim.cli.admin_client import AdminClient, connect, connected
from kbs_rim.cli.corim_files import IN, OUT, document, write
from kbs_rim.cli.corim_make import end_of, identified
from kbs_rim.cli.wording import counted
from kbs_rim.errors import InvalidDocument, TheirFault

if TYPE_CHECKING:
    from kbs_rim.appraisal.corim_document import Entity
    from kbs_rim.appraisal.rim_set import LabelledRim

_MOST_APPRAISALS = 10_000


@click.command()
@click.argument("workload")
@click.option(
    "--rims", "files", type=IN, multiple=True, help="Take RIMs computed beforehand (`kbs-rim measure --json`) as well. Repeatable."
)
@click.option("--no-records", is_flag=True, help="Take none from the broker's records.")
@click.option(
    "--appraisals",
    type=click.IntRange(1, _MOST_APPRAISALS),
    default=1000,
    show_default=True,
    help="How many of the newest allowed appraisals to look at.",
)
@identified
@click.option("--key", type=IN, help="Sign it with this private key (PEM, JWK).")
@click.option("--certificate", "chain", type=IN, multiple=True, help="Certificate of the key, then its issuers. Repeatable.")
@click.option("--signer", metavar="NAME", help="Who signs.")
@click.option("--output", "-o", type=OUT, default="-", show_default=True, help="Where to write it; - is standard output.")
@connected
def publish(
    workload: str,
    files: tuple[Path, ...],
    no_records: bool,
    appraisals: int,
    corim_id: str | None,
    entities: "tuple[Entity, ...]",
    not_before: int | None,
    not_after: int | None,
    days: int | None,
    key: Path | None,
    chain: tuple[Path, ...],
    signer: str | None,
    output: Path,
    url: str,
    token_file: Path | None,
    ca_file: Path | None,
    *,
    as_json: bool,
) -> int:
    """Write the RIM set of WORKLOAD as a CoRIM, signed if --key is given.

    From the broker's records come the RIMs that its newest revision allowed, as long as every image of the realm is active.
    """
    from kbs_rim.appraisal.corim_document import read_id
    from kbs_rim.appraisal.corim_signature import sign_corim
    from kbs_rim.appraisal.corim_writer import encode_corim
    from kbs_rim.appraisal.rim_set import rim_set_corim
    from kbs_rim.cli.corim_sign import signer_of

    if (key is None) != (signer is None) or (chain and key is None):
        raise click.UsageError("to sign it give --key and --signer, and the --certificate of the key")
    who = None if key is None or signer is None else signer_of(key, chain, signer)
    rims = _computed(files, workload)
    if no_records and not files:
        raise click.UsageError("--no-records leaves nothing to publish: give --rims")
    if not no_records:
        recorded, left_out = _recorded(connect(url, token_file, ca_file), workload, appraisals)
        rims += recorded
        if not rims:
            raise _nothing(workload, left_out)
    corim = rim_set_corim(
        rims,
        entities=entities,
        not_before=not_before,
        not_after=end_of(not_after, days),
        corim_id=read_id(corim_id) if corim_id else None,
    )
    data = encode_corim(corim)
    write(output, data if who is None else sign_corim(data, who))
    report = {"workload": workload, "id": str(corim.id), "rims": len(corim.endorsements.realms), "signed": who is not None}
    if str(output) != "-":
        count = counted(len(corim.endorsements.realms), "RIM")
        text = f"{output}: {count} of {workload}, {'signed' if who else 'unsigned'}, id {report['id']}"
        click.echo(json.dumps({"file": str(output), **report}, indent=2) if as_json else text)
    return EXIT_OK


def _computed(files: tuple[Path, ...], workload: str) -> "list[LabelledRim]":
    from kbs_rim.appraisal.rim_set import read_rims
    from kbs_rim.limits import DEFAULT_LIMITS

    return [rim for path in files for rim in read_rims(document(path, DEFAULT_LIMITS.endorsement_bytes), f"{workload}/{path.stem}")]


def _nothing(workload: str, left_out: tuple[str, ...]) -> InvalidDocument:
    why = (
        f"of its allowed appraisals all were left out ({'; '.join(left_out)})" if left_out else "the broker has no allowed appraisal of it"
    )
    remedy = "boot a realm that gets its secret, or compute RIMs beforehand (--rims)"
    return InvalidDocument("endorsement.unwritable", f"there is no RIM of {workload} to publish: {why}; {remedy}")


def _recorded(client: AdminClient, name: str, most: int) -> "tuple[list[LabelledRim], tuple[str, ...]]":
    """Return what the newest revision allowed, and what was left out, which is said on stderr as well."""
    from kbs_rim.appraisal.rim_set import rims_of_appraisals
    from kbs_rim.appraisal.workload import parse_workload

    registered: dict[str, Any] = client.get(f"/admin/v1/workloads/{name}")
    described = parse_workload(registered["workload"])
    if not registered["active"]:
        raise InvalidDocument("policy.workload-inactive", f"{name} is retired, and its realms are not to be recommended to others")
    items = list(client.pages("/audit/v1/appraisals", "appraisals", query={"workload": name, "verdict": "allowed"}, limit=most))
    loaded = {image for item in items if item["workload_revision"] == registered["revision"] for image in item["facts"].get("images") or ()}
    trusted = {image for image in loaded if _is_active(client, image, judged=described.device_tree.judges)}
    rims, left_out = rims_of_appraisals(items, name, described.realm, registered["revision"], trusted)
    for line in left_out:
        click.echo(f"kbs-rim: appraisals left out, {line}", err=True)
    return list(rims), left_out


def _is_active(client: AdminClient, image: str, *, judged: bool) -> bool:
    """Say whether an image of an allowed realm may still be loaded.

    Nothing leaves the registry, so one that is not in it is the device tree, which a workload with ``judged`` trees takes by rules.
    """
    try:
        state: str = client.get(f"/admin/v1/images/{image}")["state"]
    except TheirFault as refusal:
        if refusal.finding_id != "registry.image-unknown":
            raise
        return judged
    return state == "active"
