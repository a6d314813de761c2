"""``kbs-rim secret``: store, bind and revoke secrets. A value goes in and never comes out again."""

import sys
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import Any

import click

from kbs_rim.cli.admin_client import connect, connected, print_json, print_table

_value_option = click.option(
    "--value-file",
    type=click.Path(path_type=Path, allow_dash=True),
    required=True,
    help="File with the secret, byte for byte; - reads stdin. Never an argument: arguments are visible to every process.",
)
_secret_argument = click.argument("secret", metavar="REPOSITORY/TYPE/TAG|KEY_ID")


@click.group(name="secret")
def command() -> None:
    """Store, bind and revoke secrets. Values go in and never come out, except to an attested realm."""


@command.command()
@click.argument("path", metavar="REPOSITORY/TYPE/TAG")
@click.option("--key-id", help="Short name for guests that speak the keybroker protocol; default: the tag.")
@click.option("--workload", "workloads", multiple=True, help="Workload that may have it; repeat. None: nobody may.")
@_value_option
@connected
def add(
    path: str,
    key_id: str | None,
    workloads: tuple[str, ...],
    value_file: Path,
    url: str,
    token_file: Path | None,
    ca_file: Path | None,
    *,
    as_json: bool,
) -> None:
    """Create a secret with its first version."""
    document = {"path": path, "key_id": key_id or path.rpartition("/")[2], "workloads": list(workloads), "value": _read(value_file)}
    _report(connect(url, token_file, ca_file).send("POST", "/admin/v1/secrets", document), as_json=as_json)


@command.command()
@_secret_argument
@_value_option
@connected
def put(secret: str, value_file: Path, url: str, token_file: Path | None, ca_file: Path | None, *, as_json: bool) -> None:
    """Store a new version; the newest active version is released."""
    client = connect(url, token_file, ca_file)
    _report(client.send("POST", f"/admin/v1/secrets/{secret}/versions", {"value": _read(value_file)}), as_json=as_json)


@command.command()
@_secret_argument
@click.option("--workload", "workloads", multiple=True, help="Workload that may have it; repeat.")
@click.option("--nobody", is_flag=True, help="No workload may have it any more.")
@connected
def bind(
    secret: str, workloads: tuple[str, ...], url: str, token_file: Path | None, ca_file: Path | None, *, nobody: bool, as_json: bool
) -> None:
    """Replace the set of workloads that may have the secret."""
    if bool(workloads) == nobody:
        raise click.UsageError("name the workloads that may have it with --workload, or say --nobody: the set is replaced")
    client = connect(url, token_file, ca_file)
    _report(client.send("PUT", f"/admin/v1/secrets/{secret}/workloads", {"workloads": list(workloads)}), as_json=as_json)


@command.command()
@_secret_argument
@click.option("--version", type=click.IntRange(min=1), required=True, help="The version to make unusable for ever.")
@connected
def revoke(secret: str, version: int, url: str, token_file: Path | None, ca_file: Path | None, *, as_json: bool) -> None:
    """Erase a version."""
    client = connect(url, token_file, ca_file)
    _report(client.send("POST", f"/admin/v1/secrets/{secret}/versions/{version}/revoke", {}), as_json=as_json)


@command.command(name="list")
@connected
def list_(url: str, token_file: Path | None, ca_file: Path | None, *, as_json: bool) -> None:
    """List secrets: everything but their values."""
    client = connect(url, token_file, ca_file)
    items = list(client.pages("/admin/v1/secrets", "secrets"))
    if as_json:
        print_json({"secrets": items})
        return
    retired = {item["name"] for item in client.pages("/admin/v1/workloads", "workloads") if not item["active"]}
    rows = ((item["path"], item["key_id"], _bound_to(item, retired), _versions(item)) for item in items)
    print_table("", ("path", "key id", "workloads", "versions"), rows)


def _bound_to(item: dict[str, Any], retired: set[str]) -> str:
    return ", ".join(f"{name} (retired)" if name in retired else name for name in item["workloads"]) or "nobody"


def _versions(item: dict[str, Any]) -> str:
    """Say which version a realm would get."""
    active = [version["version"] for version in item["versions"] if version["active"]]
    revoked = len(item["versions"]) - len(active)
    newest = f"{max(active)} in use" if active else "none in use"
    return f"{newest}, {revoked} revoked" if revoked else newest


@command.command()
@_secret_argument
@connected
def show(secret: str, url: str, token_file: Path | None, ca_file: Path | None, *, as_json: bool) -> None:
    """Show a secret's versions and who may have it."""
    _report(connect(url, token_file, ca_file).get(f"/admin/v1/secrets/{secret}"), as_json=as_json)


@command.command(name="new-kek")
@click.argument("file", type=click.Path(path_type=Path))
def new_kek(file: Path) -> None:
    """Write a new key-encryption key to FILE, readable by its owner only. Back it up apart from the database."""
    from kbs_rim.adapters.secrets.local_kek import generate_key_file

    generate_key_file(file)
    click.echo(f"wrote a key-encryption key to {file}", err=True)


def _read(file: Path) -> str:
    data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    if not data:
        raise click.UsageError("the secret is empty")
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _report(info: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(info)
        return
    click.echo(f"{info['path']} (key id {info['key_id']}), for {', '.join(info['workloads']) or 'nobody'}")
    rows = (
        (item["version"], "active" if item["active"] else "revoked", item["created_at"], item["created_by"]) for item in info["versions"]
    )
    print_table("", ("version", "state", "stored", "by"), rows)
