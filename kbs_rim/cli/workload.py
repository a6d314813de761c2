"""``kbs-rim workload``: register and retire workloads."""

import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import click

from kbs_rim.cli import workload_from, workload_from_igvm
from kbs_rim.cli.admin_client import connect, connected, print_json, print_table
from kbs_rim.cli.wording import counted
from kbs_rim.cli.workload_learn import learn
from kbs_rim.errors import InvalidDocument


@click.group(name="workload")
def command() -> None:
    """Register and retire workloads: descriptions of realms that may have secrets."""


command.add_command(learn)
workload_from.command.add_command(workload_from_igvm.command)
command.add_command(workload_from.command)


@command.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
@connected
def add(file: Path, url: str, token_file: Path | None, ca_file: Path | None, *, as_json: bool) -> None:
    """Register the workload in FILE (TOML or JSON; - reads stdin); a name that exists gets a new revision."""
    answer = connect(url, token_file, ca_file).send("POST", "/admin/v1/workloads", read_document(file))
    if as_json:
        print_json(answer)
    else:
        click.echo(f"workload {answer['name']} revision {answer['revision']}")


@command.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every default written out.")
def check(file: Path, *, as_json: bool) -> None:
    """Validate FILE without a broker."""
    from kbs_rim.appraisal.workload import parse_workload, workload_document

    workload = parse_workload(read_document(file))
    if as_json:
        print_json(workload_document(workload))
    else:
        click.echo(f"workload {workload.name} is valid and names {counted(len(workload.image_ids), 'image')}")


@command.command(name="list")
@connected
def list_(url: str, token_file: Path | None, ca_file: Path | None, *, as_json: bool) -> None:
    """List the newest revision of every workload."""
    items = list(connect(url, token_file, ca_file).pages("/admin/v1/workloads", "workloads"))
    if as_json:
        print_json({"workloads": items})
        return
    rows = (
        (item["name"], item["revision"], "active" if item["active"] else "retired", item["registered_at"], item["registered_by"])
        for item in items
    )
    print_table("", ("name", "revision", "state", "registered", "by"), rows)


@command.command()
@click.argument("name")
@click.option("--revision", type=click.IntRange(min=1), help="A revision other than the newest.")
@connected
def show(name: str, revision: int | None, url: str, token_file: Path | None, ca_file: Path | None, *, as_json: bool) -> None:
    """Show a workload, with every default written out."""
    answer = connect(url, token_file, ca_file).get(f"/admin/v1/workloads/{name}", {"revision": revision})
    if not as_json:
        state = "active" if answer["active"] else "retired"
        click.echo(
            f"{answer['name']} revision {answer['revision']}, {state}, registered {answer['registered_at']} by {answer['registered_by']}",
            err=True,
        )
    print_json(answer if as_json else answer["workload"])


@command.command()
@click.argument("name")
@connected
def retire(name: str, url: str, token_file: Path | None, ca_file: Path | None, *, as_json: bool) -> None:
    """Retire a workload: nothing is released to it any more."""
    answer = connect(url, token_file, ca_file).send("POST", f"/admin/v1/workloads/{name}/retire", {})
    if as_json:
        print_json(answer)
    else:
        click.echo(f"workload {name} is retired")


def read_document(file: Path) -> Any:
    """Read TOML or JSON (- reads stdin); raise ``InvalidDocument``."""
    data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    is_json = file.suffix != ".toml" if str(file) != "-" else data.lstrip()[:1] == b"{"
    try:
        return json.loads(data) if is_json else tomllib.loads(data.decode())
    except UnicodeDecodeError:
        raise InvalidDocument("document.workload", f"{file} is no text: a workload is TOML or JSON in UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise InvalidDocument("document.workload", f"{file}: {error}") from None
