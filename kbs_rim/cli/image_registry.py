"""``kbs-rim image list|show|deprecate|revoke|activate``: the image registry of a broker."""

import re
from pathlib import Path
from typing import Any

import click

from kbs_rim.cli.admin_client import connect, connected, print_json, print_table
from kbs_rim.errors import NotFound

_IMAGE_ID = re.compile(r"sha256:[0-9a-f]{64}")


def _id(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """Refuse what can be no id here: it would become part of a route."""
    if not _IMAGE_ID.fullmatch(value):
        raise NotFound("registry.image-unknown", f"{value[:80]} is no id of an image: sha256: and 64 hexadecimal digits")
    return value


_reason = click.option("--reason", required=True, help="Why; it stays in the record.")


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
@click.argument("image_id", metavar="ID", callback=_id)
@connected
def show(image_id: str, url: str, token_file: Path | None, ca_file: Path | None, *, as_json: bool) -> None:
    """Show one image: digests, state, where it came from."""
    image = connect(url, token_file, ca_file).get(f"/admin/v1/images/{image_id}")
    if as_json:
        print_json(image)
        return
    print_table("", ("", ""), _overview(image))


@click.command()
@click.argument("image_id", metavar="ID", callback=_id)
@_reason
@connected
def deprecate(image_id: str, reason: str, url: str, token_file: Path | None, ca_file: Path | None, *, as_json: bool) -> None:
    """Deprecate an image: it still matches, with a warning in every appraisal."""
    _change(connect(url, token_file, ca_file), image_id, "deprecated", reason, as_json=as_json)


@click.command()
@click.argument("image_id", metavar="ID", callback=_id)
@_reason
@connected
def activate(image_id: str, reason: str, url: str, token_file: Path | None, ca_file: Path | None, *, as_json: bool) -> None:
    """Take a deprecation back. A revoked image stays revoked."""
    _change(connect(url, token_file, ca_file), image_id, "active", reason, as_json=as_json)


@click.command()
@click.argument("image_id", metavar="ID", callback=_id)
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
    for word in image.get("further_provenance", ()):
        rows.append(("also said", f"{word['added_at']} by {word['added_by']}"))
        rows += word["provenance"].items()
    return rows
