"""``kbs-rim corim``: show, make, sign, verify and submit CoRIMs; the commands that need more are in files of their own."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kbs_rim.cli import EXIT_OK, corim_images, corim_make, corim_publish, corim_sign, corim_submit
from kbs_rim.cli.corim_files import IN

if TYPE_CHECKING:
    from kbs_rim.appraisal.corim import CorimFile


@click.group(name="corim")
def command() -> None:
    """Make, read, sign and submit CoRIMs: reference values of realms and platforms for other verifiers, and descriptions of images."""


for _command in (
    corim_make.make,
    corim_sign.sign,
    corim_submit.submit,
    corim_publish.publish,
    corim_images.describe,
    corim_images.export,
    corim_images.import_,
):
    command.add_command(_command)

_KEYS = (
    click.option(
        "--root", "roots", type=IN, multiple=True, help="Certificate (PEM, DER) that the signer's chain must lead to. Repeatable."
    ),
    click.option("--key", "keys", type=IN, multiple=True, help="Public key (PEM, JWK or certificate) that may have signed. Repeatable."),
)


@command.command()
@click.argument("file", type=IN)
@_KEYS[0]
@_KEYS[1]
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(file: Path, roots: tuple[Path, ...], keys: tuple[Path, ...], *, as_json: bool) -> int:
    """Print what FILE (- reads stdin) says, signed or not. Its signature is verified if a root or key is given."""
    found, verified_by = _load(file, roots, keys)
    _print(found, verified_by, as_json=as_json)
    return EXIT_OK


@command.command()
@click.argument("file", type=IN)
@_KEYS[0]
@_KEYS[1]
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(file: Path, roots: tuple[Path, ...], keys: tuple[Path, ...], *, as_json: bool) -> int:
    """Verify FILE: signed by a given key or under a given root, and valid now; build plans in it are recomputed from images in it.

    Exit code 1 says that it must not be trusted, and why.
    """
    import time

    from kbs_rim.errors import InvalidDocument
    from kbs_rim.evidence.printable import printable

    if not roots and not keys:
        raise click.UsageError("nothing to verify with: give --root or --key")
    found, verified_by = _load(file, roots, keys)
    if found.signature is None:
        raise InvalidDocument("endorsement.signature", "the CoRIM is not signed")
    if not found.corim.endorsements.valid_at(int(time.time())):
        raise InvalidDocument("endorsement.validity", "the CoRIM is outside its validity")
    replayed = _replay(found)
    if as_json:
        _print(found, verified_by, as_json=True)
    else:
        click.echo(f"valid: {found.corim.id}, signed by {printable(verified_by or '')}")
    for line in replayed:
        click.echo(line, err=as_json)
    return EXIT_OK


def _load(file: Path, roots: tuple[Path, ...], keys: tuple[Path, ...]) -> "tuple[CorimFile, str | None]":
    """Read a file, and return who signed it if that could be verified."""
    import time

    from kbs_rim.appraisal.corim import read_corim
    from kbs_rim.appraisal.corim_signature import verify_signature
    from kbs_rim.cli.corim_files import certificates, read, trusted_keys
    from kbs_rim.limits import DEFAULT_LIMITS

    most = DEFAULT_LIMITS.image_corim_bytes
    found = read_corim(read(file, most), max_bytes=most)
    if found.signature is None or not (roots or keys):
        return found, None
    return found, verify_signature(found.signature, roots=certificates(roots), keys=trusted_keys(keys), at=int(time.time()))


def _print(found: "CorimFile", verified_by: str | None, *, as_json: bool) -> None:
    from kbs_rim.cli.admin_client import print_json
    from kbs_rim.cli.corim_view import describe, print_rows, rows

    if as_json:
        print_json(describe(found, verified_by))
    else:
        print_rows(rows(found, verified_by))


def _replay(found: "CorimFile") -> list[str]:
    """Recompute build plans whose images are all here; raise ``InvalidDocument`` if a RIM comes out as another one."""
    from kbs_rim.errors import InvalidDocument, MalformedEvidence

    lines = []
    for plan in found.corim.plans:
        try:
            holds = plan.holds(found.corim.images)
        except MalformedEvidence as error:
            lines.append(f"build plan {plan.rim.hex()}: not recomputed: {error}")
            continue
        if not holds:
            raise InvalidDocument("endorsement.malformed", "a build plan gives another RIM than it says", expected=plan.rim.hex())
        lines.append(f"build plan {plan.rim.hex()}: recomputed from the images here")
    return lines
