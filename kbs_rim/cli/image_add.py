"""``kbs-rim image add``: from files, packages, signed repositories, folders and container layouts into a broker's registry.

Images are hashed here, on the administrator's side: the broker gets digests, not gigabytes.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kbs_rim.cli.admin_client import connect, connected, print_json, print_table
from kbs_rim.cli.image_collect import collecting, description, load_sources, say_speed, sourced_options, submission

if TYPE_CHECKING:
    from kbs_rim.cli.admin_client import AdminClient
    from kbs_rim.image_sources.origins import SourcedImage
    from kbs_rim.image_sources.requests import ImageRequest

ROLES = ("kernel", "initrd", "firmware", "device-tree", "boot-loader", "uki", "uki-addon", "boot-file", "acpi")
_BATCH = "/admin/v1/images/batch"
_path = click.Path(path_type=Path)


def pairs(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """Read KEY=VALUE options."""
    found = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals or not name or name in found:
            raise click.BadParameter(f"write each KEY=VALUE once, not {value!r}")
        found[name] = text
    return found


@click.command()
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
@click.option("--deb", "debs", multiple=True, type=_path, metavar="PACKAGE_FILE", help="Take the images of a Debian package; repeat.")
@click.option("--apt", "packages", multiple=True, metavar="NAME[=VERSION]", help="Fetch a package from your signed sources; repeat.")
@click.option("--dir", "folders", multiple=True, type=_path, metavar="DIR", help="Take the images in a folder; repeat.")
@click.option("--oci-layout", "layouts", multiple=True, type=_path, metavar="DIR", help="Take the images in a container image; repeat.")
@click.option("--from", "manifest", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Take what a manifest lists.")
@click.option("--name", help="What people call it; of one image only.")
@click.option(
    "--role", "roles", multiple=True, type=click.Choice(ROLES), help="What it may be used as, instead of what it looks like; repeat."
)
@click.option("--match", "patterns", multiple=True, metavar="PATTERN", help="Take files whose path matches, * through slashes too; repeat.")
@click.option("--source", metavar="NAME", help="Ask this source only.")
@click.option("--unsigned", is_flag=True, help="Take a --deb that no signed source vouches for.")
@click.option("--ref", "reference", help="Choose an image of --oci-layout by name.")
@click.option("--digest", metavar="sha256:HEX", help="The manifest or index of --oci-layout must have this digest.")
@click.option("--provenance", multiple=True, callback=pairs, metavar="KEY=VALUE", help="Where it comes from, in your words; repeat.")
@click.option("--dry-run", is_flag=True, help="Show what would be registered; no broker is asked.")
@click.option("--all", "everything", is_flag=True, help="With --dry-run: device trees and firmware variables too.")
@sourced_options
@connected
def add(
    file: Path | None,
    *,
    sources_file: Path | None,
    cache: Path | None,
    state_file: Path | None,
    offline: bool,
    dry_run: bool,
    everything: bool,
    url: str,
    token_file: Path | None,
    ca_file: Path | None,
    as_json: bool,
    **asked: Any,
) -> None:
    """Hash images here and register them: FILE (- reads stdin), or what is found in packages, folders and layouts.

    A set is registered whole or not at all. A gzip'd kernel is registered as the VMM loads it: unpacked.
    """
    if everything and not dry_run:
        raise click.UsageError("--all only shows: add --dry-run, or choose with --match")
    if file is not None and str(file) == "-":
        _add_stdin(asked, url, token_file, ca_file, as_json=as_json)
        return
    requests = _requests(file, asked)
    client = None if dry_run else connect(url, token_file, ca_file)
    with collecting(load_sources(sources_file), cache, state_file, offline=offline, everything=everything) as (collector, _, _):
        images = [image for request in requests for image in collector.collect(request)]
        say_speed(collector.hashed_bytes, collector.hashing_s)
    _warn_of_seeds(unique(images))
    if client is None:
        _show(images, as_json=as_json)
        return
    answers = register(client, [submission(image) for image in unique(images)])
    _report(answers, alone=file is not None, as_json=as_json)


def _warn_of_seeds(images: Iterable["SourcedImage"]) -> None:
    """A tree that was dumped from a VM often holds seeds: the guests of a registered tree would all start from the same ones."""
    for image in images:
        if seeds := image.found.seeds:
            remedy = "start the VMM with dtb-randomness=off, or take them out of the tree"
            known = f"holds {' and '.join(seeds)}, the same at each boot and known to the host"
            click.echo(f"kbs-rim: warning: {image.name} {known}: {remedy}", err=True)


def register(client: "AdminClient", submissions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Register a set in one transaction; return what became of each."""
    answers: list[dict[str, Any]] = client.send("POST", _BATCH, {"images": list(submissions)})["images"]
    return answers


def unique(images: Iterable["SourcedImage"]) -> list["SourcedImage"]:
    """Leave out images that were found before under the same roles; the first name counts."""
    found: dict[tuple[str, tuple[str, ...]], SourcedImage] = {}
    for image in images:
        found.setdefault((image.found.measurements.image_id, tuple(image.found.roles)), image)
    return list(found.values())


def _requests(file: Path | None, asked: Mapping[str, Any]) -> list["ImageRequest"]:
    from kbs_rim.image_sources.requests import ImageRequest, RequestKind, known_roles, parse_manifest
    from kbs_rim.image_sources.source_limits import DEFAULT_SOURCE_LIMITS

    common = {
        "name": asked["name"],
        "roles": known_roles(asked["roles"], "--role"),
        "patterns": asked["patterns"],
        "provenance": asked["provenance"],
    }
    requests = []
    if file is not None:
        requests.append(ImageRequest(kind=RequestKind.FILE, value=str(file), **common))
    for deb in asked["debs"]:
        requests.append(ImageRequest(kind=RequestKind.DEB, value=str(deb), source=asked["source"], unsigned=asked["unsigned"], **common))
    for package in asked["packages"]:
        requests.append(ImageRequest(kind=RequestKind.APT, value=package, source=asked["source"], **common))
    for folder in asked["folders"]:
        requests.append(ImageRequest(kind=RequestKind.DIR, value=str(folder), **common))
    for layout in asked["layouts"]:
        requests.append(
            ImageRequest(kind=RequestKind.OCI, value=str(layout), reference=asked["reference"], digest=asked["digest"], **common)
        )
    manifest: Path | None = asked["manifest"]
    if manifest is not None:
        if requests or any(common.values()):
            raise click.UsageError("--from takes everything from the manifest: give it alone")
        data = manifest.read_bytes()[: DEFAULT_SOURCE_LIMITS.document_bytes + 1]
        return list(parse_manifest(data, manifest.parent, DEFAULT_SOURCE_LIMITS))
    if not requests:
        raise click.UsageError("name a FILE, or one of --deb, --apt, --dir, --oci-layout, --from")
    if asked["name"] is not None and len(requests) > 1:
        raise click.UsageError("--name is for one image")
    return requests


def _add_stdin(asked: Mapping[str, Any], url: str, token_file: Path | None, ca_file: Path | None, *, as_json: bool) -> None:
    """Register what comes from stdin: it has neither a name nor a length, so both name and role must be told."""
    from kbs_rim.cli.image import measure_file
    from kbs_rim.image_sources.requests import ImageRequest, RequestKind

    if not asked["name"] or not asked["roles"]:
        raise click.UsageError("stdin has no name: give --name and --role")
    ImageRequest(kind=RequestKind.FILE, value="-", provenance=asked["provenance"])  # refuses words that claim a check
    client = connect(url, token_file, ca_file)
    measured = measure_file(Path("-"))
    document = {
        "name": asked["name"],
        "roles": list(asked["roles"]),
        "measurements": measured.to_document(),
        "provenance": asked["provenance"],
    }
    _report(register(client, [document]), alone=True, as_json=as_json)


def _show(images: Sequence["SourcedImage"], *, as_json: bool) -> None:
    if as_json:
        print_json({"images": [description(image) for image in images]})
        return
    rows = (
        (image.found.measurements.image_id, image.found.kind.value, ", ".join(image.found.roles) or "-", image.name) for image in images
    )
    print_table("", ("id", "kind", "roles", "name"), rows)


def _report(answers: Sequence[Mapping[str, Any]], *, alone: bool, as_json: bool) -> None:
    """Print what became of each image; of a single file the id alone, and on stderr what was not new."""
    if as_json:
        print_json(answers[0]["image"] if alone else {"images": list(answers)})
    elif alone:
        click.echo(answers[0]["image"]["id"])
    else:
        rows = ((item["image"]["id"], item["outcome"], ", ".join(item["added"]), item["image"]["name"]) for item in answers)
        print_table("", ("id", "outcome", "added", "name"), rows)
    for item in answers:
        if item["outcome"] != "registered" and (alone or as_json):
            added = f"; added: {', '.join(item['added'])}" if item["added"] else "; nothing is changed"
            click.echo(f"kbs-rim: these bytes were registered before, as {item['image']['name']}{added}", err=True)
