"""``kbs-rim workload learn``: rules for REMs from the logs of one trusted boot ("reference boot"), for approval."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kbs_rim.cli import EXIT_OK, EXIT_REFUSED
from kbs_rim.cli.admin_client import connect, connected, print_json

if TYPE_CHECKING:
    from kbs_rim.appraisal.reference_boot import Boot, Choices, Learned
    from kbs_rim.appraisal.registered_image import RegisteredImage
    from kbs_rim.cli.admin_client import AdminClient

_FILE = click.Path(path_type=Path, dir_okay=False)
_EXISTING = click.Path(exists=True, path_type=Path, dir_okay=False)


@click.command()
@click.argument("logs", nargs=-1, metavar="[LOG|KIND=LOG]...")
@click.option("--kind", help="Kind of the logs that do not say it: cc, tpm, cel-tlv, cel-cbor, cel-json, ima or aael.")
@click.option("--registers", type=click.Choice(["mr", "pcr"]), help="What a cel or aael log counts: measurement registers or PCRs.")
@click.option("--mapping", type=click.Choice(["uefi", "uefi-rim-to-rem0"]), help="How PCRs of a tpm, ima or pcr log went to REMs.")
@click.option("--algorithm", default="sha256", show_default=True, help="Hash algorithm of the realm.")
@click.option("--appraisal", "ticket", metavar="TICKET", help="Learn from the logs of a past appraisal, even of a refused one.")
@click.option("--image", "images", multiple=True, metavar="[ROLE=]FILE", help="A file that was measured; hashed here; repeat.")
@click.option("--device-tree", type=_EXISTING, help="The device tree that the VM was started with, which the RIM covers.")
@click.option("--registry", is_flag=True, help="Look digests up among the broker's images as well; --appraisal and --merge do.")
@click.option("--command-line", "command_lines", multiple=True, metavar="TEXT", help="Try this as the kernel's command line; repeat.")
@click.option("--require", "required", multiple=True, metavar="PARAMETER", help="Rules for parameters instead of exact lines; repeat.")
@click.option("--allow", "allowed", multiple=True, metavar="PATTERN", help="A parameter that may be there; repeat.")
@click.option("--forbid", "forbidden", multiple=True, metavar="PATTERN", help="What --allow does not allow; repeat.")
@click.option(
    "--any",
    "loose",
    multiple=True,
    type=click.Choice(["boot-variables", "partition-tables", "authorities", "ima"]),
    help="Let all well-formed events of this kind in, where there was one; repeat.",
)
@click.option("--accept-unknown", is_flag=True, help="Let in what nothing explains, as bare digests with a comment.")
@click.option("--into", type=_EXISTING, help="Print the workload of this file (TOML or JSON) with the learnt rules in it.")
@click.option("--merge", "name", metavar="NAME", help="The same for a workload of the broker.")
@click.option("--output", type=_FILE, help="Write the document to a file, JSON if it ends in .json.")
@click.option("--force", is_flag=True, help="Replace the output file if there is one.")
@connected
def learn(url: str, token_file: Path | None, ca_file: Path | None, *, as_json: bool, **options: Any) -> int:
    """Learn rules for the REMs from the LOGs of one boot that you trust, and show them for approval.

    Every event is explained by an image, by its own bytes, or not at all; the rules let in just that. They go to standard output, as
    TOML for a workload, and what each is good for to standard error. The judge of the broker tries them on the same logs. Exit 1: the
    rules refuse the boot that they come from. Nothing is registered: that is what kbs-rim workload add is for.
    """
    _check_usage(options)
    client = connect(url, token_file, ca_file) if options["registry"] or options["ticket"] or options["name"] else None
    base = _base(options, client)
    boot, registered = _boot(options, client)
    learned, warnings = _learn(boot, options, registered)
    return _deliver(learned, warnings, base, options, signed=boot.signed is not None, as_json=as_json)


def _check_usage(options: Mapping[str, Any]) -> None:
    if bool(options["logs"]) == bool(options["ticket"]):
        raise click.UsageError("give the logs of a boot, or --appraisal TICKET")
    if options["into"] and options["name"]:
        raise click.UsageError("--into and --merge are two ways to say one thing")
    if options["ticket"] and (options["kind"] or options["registers"]):
        raise click.UsageError("the logs of an appraisal have their kinds already")
    if options["forbidden"] and not options["allowed"]:
        raise click.UsageError("--forbid only takes away from --allow: what is not allowed is refused anyway")
    output: Path | None = options["output"]
    if output is not None and not options["force"] and (output.exists() or output.is_symlink()):
        raise click.ClickException(f"{output} exists; --force replaces it")


def _base(options: Mapping[str, Any], client: "AdminClient | None") -> dict[str, Any] | None:
    """Return the workload that the rules go into, before anything is learnt: a wrong name is said at once."""
    from kbs_rim.appraisal.workload import parse_workload
    from kbs_rim.cli.workload import read_document

    if options["into"]:
        document: dict[str, Any] = read_document(options["into"])
        parse_workload({**document, "runtime": None, "realm": {**document.get("realm", {}), "rems": ["zero"] * 4}})
        return document
    if options["name"] and client is not None:
        found: dict[str, Any] = client.get(f"/admin/v1/workloads/{options['name']}")["workload"]
        return found
    return None


def _boot(options: Mapping[str, Any], client: "AdminClient | None") -> "tuple[Boot, list[str] | None]":
    """Return the boot with every image that is known, and the ids of those that are registered if the broker was asked."""
    from kbs_rim.appraisal.reference_boot import Boot
    from kbs_rim.cli import learn_sources as sources
    from kbs_rim.evidence.hash_algorithm import HashAlgorithm

    registered = list(sources.images_from_registry(client)) if client else None
    images: list[RegisteredImage] = list(registered or ())
    known = {image.id for image in images}
    images += [image for image in sources.images_from_files(options["images"]) if image.id not in known]
    if options["ticket"] and client:
        boot = sources.boot_of_appraisal(client, options["ticket"], options["mapping"], images)
    else:
        try:
            algorithm = HashAlgorithm.from_name(options["algorithm"])
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--algorithm") from None
        logs = sources.logs_from_files(options["logs"], options["kind"], options["registers"], options["mapping"])
        boot = Boot(logs=logs, algorithm=algorithm, images=images)
    if options["device_tree"]:
        tree = sources.tree_image(options["device_tree"].read_bytes(), options["device_tree"].name)
        boot = replace(boot, loaded={**boot.loaded, tree.measurements.digests[boot.algorithm]: tree})
    return boot, None if registered is None else [image.id for image in registered]


def _choices(options: Mapping[str, Any]) -> "Choices":
    from kbs_rim.appraisal.reference_boot import Choices

    return Choices(
        loose=frozenset(options["loose"]),
        command_lines=options["command_lines"],
        parameters={name: options[name] for name in ("required", "allowed", "forbidden")},
        accept_unknown=options["accept_unknown"],
    )


def _learn(boot: "Boot", options: Mapping[str, Any], registered: list[str] | None) -> "tuple[Learned, tuple[str, ...]]":
    from kbs_rim.appraisal.learned_review import warnings_of
    from kbs_rim.appraisal.reference_boot import learn as learn_from

    learned = learn_from(boot, _choices(options))
    return learned, warnings_of(learned, registered)


def _deliver(
    learned: "Learned", warnings: tuple[str, ...], base: dict[str, Any] | None, options: Mapping[str, Any], *, signed: bool, as_json: bool
) -> int:
    from kbs_rim.cli.learn_view import print_review, review_document

    rules = {"realm": {"rems": learned.rems}, "runtime": learned.table}
    document = rules if base is None else {**base, "realm": {**base.get("realm", {}), "rems": learned.rems}, "runtime": learned.table}
    if not as_json:
        print_review(learned, warnings, signed=signed)
    if base is not None and learned.complete:
        _check(document)
        if base.get("runtime"):
            click.echo(f"kbs-rim: workload {base['name']} had a table runtime, which is replaced", err=True)
    if as_json:
        merged = {} if base is None else {"workload": document}
        print_json({**review_document(learned, warnings, signed=signed), **merged})
    if not learned.complete:
        return EXIT_REFUSED
    output: Path | None = options["output"]
    if output is not None:
        output.write_text(_text(document, learned, as_json=output.suffix == ".json"))
        if base is None:
            click.echo(f"kbs-rim: wrote the rules to {output}; read them, and put them into a workload", err=True)
        else:
            click.echo(f"kbs-rim: wrote workload {document['name']}; read it, then: kbs-rim workload add {output}", err=True)
    elif not as_json:
        click.echo(_text(document, learned, as_json=False), nl=False)
    return EXIT_OK


def _check(document: dict[str, Any]) -> None:
    from kbs_rim.appraisal.workload import parse_workload

    parse_workload(document)


def _text(document: Mapping[str, Any], learned: "Learned", *, as_json: bool) -> str:
    from kbs_rim.cli.learn_view import notes_of
    from kbs_rim.cli.toml_text import to_toml

    if as_json:
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    return to_toml(document, notes_of(learned))
