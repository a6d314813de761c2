"""``kbs-rim corim sign``: sign a CoRIM as Veraison wants it."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kbs_rim.cli import EXIT_OK
from kbs_rim.cli.corim_files import IN, OUT, moment, write

if TYPE_CHECKING:
    from kbs_rim.appraisal.corim_signature import Signer


@click.command()
@click.argument("file", type=IN)
@click.option("--key", type=IN, required=True, help="Private key on P-256, P-384 or P-521, PEM or JWK.")
@click.option("--certificate", "chain", type=IN, multiple=True, help="Certificate of the key, then its issuers (PEM, DER). Repeatable.")
@click.option("--signer", required=True, metavar="NAME", help="Who signs.")
@click.option("--signer-uri", metavar="URI", help="Where to read about who signs.")
@click.option("--kid", metavar="TEXT", help="Key id for the protected header.")
@click.option("--not-before", callback=moment, metavar="TIME", help="Beginning of the signature's validity.")
@click.option("--not-after", callback=moment, metavar="TIME", help="End of the signature's validity.")
@click.option("--allow-test-keys", is_flag=True, help="Sign with a key whose private half is published. Tests only.")
@click.option("--output", "-o", type=OUT, default="-", show_default=True, help="Where to write it; - is standard output.")
def sign(
    file: Path,
    key: Path,
    chain: tuple[Path, ...],
    signer: str,
    signer_uri: str | None,
    kid: str | None,
    not_before: int | None,
    not_after: int | None,
    allow_test_keys: bool,
    output: Path,
) -> int:
    """Sign FILE, an unsigned CoRIM, with ES256, ES384 or ES512, after the key's curve.

    The same content and key give the same bytes. Veraison takes a signed CoRIM only with the certificate chain inside.
    """
    who = signer_of(
        key, chain, signer, signer_uri=signer_uri, kid=kid, not_before=not_before, not_after=not_after, allow_test_keys=allow_test_keys
    )
    write(output, signed(file, who))
    if not chain:
        click.echo("kbs-rim: signed without a certificate: verify it with --key; Veraison will not take it", err=True)
    if str(output) != "-":
        click.echo(f"{output}: signed by {signer}")
    return EXIT_OK


def signer_of(
    key: Path,
    chain: tuple[Path, ...],
    name: str,
    *,
    signer_uri: str | None = None,
    kid: str | None = None,
    not_before: int | None = None,
    not_after: int | None = None,
    allow_test_keys: bool = False,
) -> "Signer":
    """Read key and certificates; raise ``ConfigurationError``."""
    from kbs_rim.appraisal.corim_signature import Signer
    from kbs_rim.appraisal.published_keys import is_published
    from kbs_rim.cli.corim_files import certificates, signing_key
    from kbs_rim.errors import ConfigurationError

    private = signing_key(key)
    if not allow_test_keys and (published := is_published(private.public_key())):
        raise ConfigurationError(f"{key} is published ({published}): anybody can sign with it")
    try:
        return Signer(
            key=private,
            name=name,
            uri=signer_uri,
            chain=certificates(chain),
            kid=None if kid is None else kid.encode(),
            not_before=not_before,
            not_after=not_after,
        )
    except ValueError as error:
        raise ConfigurationError(str(error)) from None


def signed(file: Path, signer: "Signer") -> bytes:
    """Return the signed form of a file that is an unsigned CoRIM; raise ``InvalidDocument`` for anything else."""
    from kbs_rim.appraisal.corim import read_corim
    from kbs_rim.appraisal.corim_signature import sign_corim
    from kbs_rim.cli.corim_files import read
    from kbs_rim.errors import InvalidDocument
    from kbs_rim.limits import DEFAULT_LIMITS

    most = DEFAULT_LIMITS.image_corim_bytes
    found = read_corim(read(file, most), max_bytes=most)
    if found.signature is not None:
        raise InvalidDocument("endorsement.signature", f"{file} is signed already")
    return sign_corim(found.payload, signer)
