"""``kbs-rim image add|list|show|deprecate|revoke|activate``: the image registry of a broker.

Images are hashed here, on the administrator's side: the broker gets digests, not gigabytes.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kbs_rim.cli.admin_client import connect, connected, print_json, print_table

if TYPE_CHECKING:
    from kbs_rim.measurement.image import ImageMeasurements

_reason = click.option("--reason", required=True, help="Why; it stays in the record.")


def _pair(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals or not name or name in pairs:
            raise click.BadParameter(f"write each KEY=VALUE once, not {value!r}")
        pairs[name] = text
    return pairs


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
@click.option("--name", required=True, help="What people call it.")
@click.option(
    "--role",
    "roles",
    multiple=True,
    required=True,
    type=click.Choice(["kernel", "initrd", "firmware", "device-tree", "boot-loader", "uki", "uki-addon", "boot-file", "acpi"]),
    help="What it may be used as; repeat.",
)
@click.option("--provenance", multiple=True, callback=_pair, metavar="KEY=VALUE", help="Where it comes from; repeat.")
@connected
def add(
    file: Path,
    name: str,
    roles: tuple[str, ...],
    provenance: dict[str, str],
    url: str,
    token_file: Path | None,
    ca_file: Path | None,
    *,
    as_json: bool,
) -> None:
    """Hash FILE (- reads stdin) here and register it. A gzip'd kernel is registered as the VMM loads it: unpacked."""
    client = connect(url, token_file, ca_file)
    measured = _measure(file)
    document = {"name": name, "roles": list(roles), "measurements": measured.to_document(), "provenance": provenance}
    image = client.send("POST", "/admin/v1/images", document)
    if as_json:
        print_json(image)
        return
    click.echo(image["id"])
    if image["name"] != name:
        click.echo(f"kbs-rim: these bytes were registered before, as {image['name']}", err=True)


@click.command(name="list")
@click.option("--state", type=click.Choice(["active", "deprecated", "revoked"]), help="Only images in this state.")
@connected
def list_(state: str | None, url: str, token_file: Path | None, ca_file: Path | None, *, as_json: bool) -> None:
    """List registered images."""
    items = list(connect(url, token_file, ca_file).pages("/admin/v1/images", "images", query={"state": state}))
    if as_json:
        print_json({"images": items})
        return
    rows = ((item["id"], item["name"], ", ".join(item["roles"]), item["state"], item["size"]) for item in items)
    print_table("", ("id", "name", "roles", "state", "bytes"), rows)


@click.command()
@click.argument("image_id", metavar="ID")
@connected
def show(image_id: str, url: str, token_file: Path | None, ca_file: Path | None, *, as_json: bool) -> None:
    """Show one image: digests, state, where it came from."""
    image = connect(url, token_file, ca_file).get(f"/admin/v1/images/{image_id}")
    if as_json:
        print_json(image)
        return
    print_table("", ("", ""), _overview(image))


@click.command()
@click.argument("image_id", metavar="ID")
@_reason
@connected
def deprecate(image_id: str, reason: str, url: str, token_file: Path | None, ca_file: Path | None, *, as_json: bool) -> None:
    """Deprecate an image: it still matches, with a warning in every appraisal."""
    _change(connect(url, token_file, ca_file), image_id, "deprecated", reason, as_json=as_json)


@click.command()
@click.argument("image_id", metavar="ID")
@_reason
@connected
def activate(image_id: str, reason: str, url: str, token_file: Path | None, ca_file: Path | None, *, as_json: bool) -> None:
    """Take a deprecation back. A revoked image stays revoked."""
    _change(connect(url, token_file, ca_file), image_id, "active", reason, as_json=as_json)


@click.command()
@click.argument("image_id", metavar="ID")
@_reason
@connected
def revoke(image_id: str, reason: str, url: str, token_file: Path | None, ca_file: Path | None, *, as_json: bool) -> None:
    """Revoke an image for ever. When this returns, no replica releases anything to a realm that loaded it."""
    _change(connect(url, token_file, ca_file), image_id, "revoked", reason, as_json=as_json)


def _change(client: Any, image_id: str, state: str, reason: str, *, as_json: bool) -> None:
    answer = client.send("POST", f"/admin/v1/images/{image_id}/state", {"state": state, "reason": reason})
    if as_json:
        print_json(answer)
        return
    image = answer["image"]
    click.echo(f"{image['name']} ({image['id']}) is {image['state']}")
    for what, touched in answer["touches"].items():
        shown = ", ".join(map(str, touched)) or "none" if isinstance(touched, list) else touched
        click.echo(f"touches {what}: {shown}")


def _measure(file: Path) -> "ImageMeasurements":
    """Hash with a progress bar on stderr, where somebody watches."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from kbs_rim.cli.image import measure_file

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        size = None if str(file) == "-" else file.stat().st_size
        task = progress.add_task(f"hashing {file.name}", total=size)
        return measure_file(file, progress=lambda count: progress.update(task, advance=count))


def _overview(image: dict[str, Any]) -> list[tuple[str, object]]:
    from kbs_rim.cli.image_parts import part_rows

    rows: list[tuple[str, object]] = [
        ("id", image["id"]),
        ("name", image["name"]),
        ("roles", ", ".join(image["roles"])),
        ("state", f"{image['state']} since {image['state_at']} by {image['state_by']}"),
        ("reason", image["state_reason"]),
        ("kind", " ".join(filter(None, (image["kind"], image["compression"])))),
        ("bytes as loaded", image["size"]),
    ]
    rows += image["digests"].items()
    if image["compression"]:
        rows.append(("bytes of the file", image["file_size"]))
        rows += ((f"{name} of the file", digest) for name, digest in image["file_digests"].items())
    rows += part_rows(image["pe"], image["volumes"])
    rows += image["provenance"].items()
    rows.append(("registered", f"{image['registered_at']} by {image['registered_by']}"))
    return rows
