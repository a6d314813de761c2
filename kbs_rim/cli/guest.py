"""``kbs-rim guest``: ask for a secret, as a realm does at boot."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from kbs_rim.cli import EXIT_OK, EXIT_REFUSED

if TYPE_CHECKING:
    from kbs_rim.evidence.log_label import LogLabel
    from kbs_rim.realm.guest import EvidenceSource, Exchange, Secret
    from kbs_rim.realm.guest_logs import GuestLogs

_FILE = click.Path(path_type=Path, dir_okay=False)
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


@click.group("guest")
def command() -> None:
    """Ask for a secret, as a realm does."""


@command.command("get")
@click.argument("key")
@click.argument("simulate_arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- SIMULATE-OPTIONS]")
@click.option("--broker", required=True, metavar="URL", help="http(s)://host[:port][/path] of the broker.")
@click.option("--ca", type=_FILE, help="Certificate authorities to trust, PEM [default: the system's].")
@click.option("--output", default="-", show_default=True, metavar="FILE", help="Where the secret goes; - is standard output.")
@click.option("--force", is_flag=True, help="Replace the output file if there is one.")
@click.option("--key-type", type=click.Choice(["p256", "p384", "x25519", "rsa"]), default="p256", show_default=True)
@click.option("--deadline", type=click.FloatRange(0.1, 3600), default=60.0, show_default=True, help="Seconds for everything.")
@click.option("--evidence", type=click.Choice(["tsm"]), default="tsm", show_default=True, help="Where evidence comes from.")
@click.option("--simulate", is_flag=True, help="Be a simulated realm instead; its options follow after --.")
@click.option("--vmm-log", type=_FILE, help="The VMM's log, however it reached this realm.")
@click.option(
    "--log",
    "logs",
    multiple=True,
    metavar="KIND[=FILE]",
    help="Another log, such as cel-tlv.mr=FILE; ima and aael have usual places; repeat.",
)
@click.option("--ccel", type=_FILE, help="The firmware's log area [default: that of ACPI, if there is one].")
@click.option("--ccel-table", type=_FILE, help="The ACPI table about it [default: that of ACPI, if there is one].")
@click.option("--no-ccel", is_flag=True, help="Do not look for a log of the firmware.")
@click.option("--device-tree", type=_FILE, help="The device tree as it was loaded, for workloads that judge it by rules.")
@click.option("--tsm-root", type=click.Path(path_type=Path, file_okay=False), help="Directory of TSM reports.", hidden=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of the bare secret.")
def get(key: str, **options: Any) -> int:
    """Get the secret KEY (a key id, or repository/type/tag) and write it to standard output or to a file.

    The key pair is made for this one exchange. The broker's challenge must commit to it, or nothing is attested. Nothing but
    the secret goes to standard output. Exit 1: refused; 2: could not be done.

    A simulated realm:  kbs-rim guest get KEY --broker URL --simulate -- --vmm qemu --kernel Image ...
    """
    from kbs_rim.realm.failures import AttesterRefused

    output = None if options["output"] == "-" else Path(options["output"])
    if output is not None and not options["force"] and (output.exists() or output.is_symlink()):
        raise click.ClickException(f"{output} exists; --force replaces it")
    exchange = _exchange(options["broker"], key, options["key_type"])
    source = _source(options)
    _warn_about_transport(options["broker"])
    try:
        secret = _get(exchange, source, options)
    except AttesterRefused as error:
        if options["as_json"]:
            click.echo(json.dumps({"refused": {"code": error.code, "ticket": error.ticket}}))
        click.echo(f"kbs-rim: {error.code}: {error}", err=True)
        return EXIT_REFUSED
    _deliver(secret, key, output, replace=options["force"], as_json=options["as_json"])
    return EXIT_OK


def _exchange(broker: str, key: str, key_type: str) -> "Exchange":
    from kbs_rim.realm.guest import Exchange, KeyType, new_key

    try:
        return Exchange(broker, key, new_key(KeyType(key_type)))
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _source(options: dict[str, Any]) -> "EvidenceSource":
    arguments: Sequence[str] = options["simulate_arguments"]
    if options["simulate"]:
        if any(options[name] for name in ("vmm_log", "logs", "device_tree", "ccel", "ccel_table", "no_ccel")):
            raise click.UsageError("logs and --device-tree are for a real realm; a simulated one sends its own (--send-dtb after --)")
        from kbs_rim.cli.simulate import realm_from_arguments

        return realm_from_arguments(arguments)
    if arguments:
        raise click.UsageError("options of a simulated realm need --simulate")
    from kbs_rim.realm.tsm import REPORT_ROOT, ConfigfsTree, TsmEvidence

    tree = ConfigfsTree(options["tsm_root"] or REPORT_ROOT)
    return TsmEvidence(tree, logs=_logs(options), device_tree=options["device_tree"])


def _logs(options: dict[str, Any]) -> "GuestLogs":
    from kbs_rim.evidence.event_log import LogFormat
    from kbs_rim.evidence.log_label import label_of
    from kbs_rim.realm.guest_logs import CCEL_DATA, CCEL_TABLE, GuestLogs

    if options["no_ccel"] and (options["ccel"] or options["ccel_table"]):
        raise click.UsageError("--no-ccel contradicts --ccel and --ccel-table")
    named = {} if options["vmm_log"] is None else {label_of(LogFormat.VMM): options["vmm_log"]}
    for label, path in _named_logs(options["logs"]).items():
        if label in named:
            raise click.BadParameter("the VMM's log is named twice", param_hint="--log")
        named[label] = path
    return GuestLogs(
        files=named,
        ccel=None if options["no_ccel"] else options["ccel"] or CCEL_DATA,
        table=options["ccel_table"] or CCEL_TABLE,
        say=lambda text: click.echo(f"kbs-rim: {text}", err=True),
    )


def _named_logs(values: Sequence[str]) -> "dict[LogLabel, Path]":
    """Read KIND=FILE values, or KIND alone of what has a usual place. A kind whose numbering is open is named with it."""
    from kbs_rim.evidence.log_label import LABELS, parse_label
    from kbs_rim.realm.guest_logs import USUAL_PLACES

    named: dict[LogLabel, Path] = {}
    for value in values:
        kind, separator, path = value.partition("=")
        try:
            label = parse_label(kind)
        except ValueError:
            known = ", ".join(label.value for label in LABELS)
            raise click.BadParameter(f"{kind} is no kind of log; those are {known}", param_hint="--log") from None
        if not path and (separator or label not in USUAL_PLACES):
            raise click.BadParameter(f"{value} names no file", param_hint="--log")
        if any(label.format is other.format for other in named):
            raise click.BadParameter(f"two logs of the kind {label.format.value}", param_hint="--log")
        named[label] = Path(path) if path else USUAL_PLACES[label]
    return named


def _warn_about_transport(broker: str) -> None:
    """Without TLS the secret is still sealed to us, but anybody can answer with another one."""
    parts = urlsplit(broker)
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        click.echo("kbs-rim: warning: without TLS anybody on the way can hand out another secret", err=True)


def _get(exchange: "Exchange", source: "EvidenceSource", options: dict[str, Any]) -> "Secret":
    from kbs_rim.realm.guest_http import Patience, get_secret, trust

    tls = trust(options["ca"]) if exchange.request_url.startswith("https") else None
    return asyncio.run(get_secret(exchange, source, Patience(deadline_s=options["deadline"]), tls=tls))


def _deliver(secret: "Secret", key: str, output: Path | None, *, replace: bool, as_json: bool) -> None:
    from kbs_rim.evidence import base64url
    from kbs_rim.realm.secret_file import write_secret

    if output is not None:
        write_secret(output, secret.value, replace=replace)
    document: dict[str, Any] = {"key": key, "ticket": secret.ticket, "size": len(secret.value)}
    if as_json and output is not None:
        click.echo(json.dumps(document | {"output": str(output)}))
    elif as_json:
        click.echo(json.dumps(document | {"secret": base64url.encode(secret.value)}))
    elif output is None:
        click.echo(secret.value, nl=False)
    else:
        click.echo(f"kbs-rim: wrote {len(secret.value)} bytes to {output}", err=True)
