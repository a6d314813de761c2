"""``kbs-rim verifier``: the reference verifier, a process of its own with a key of its own."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kbs_rim.cli import EXIT_OK
from kbs_rim.cli.wording import counted

if TYPE_CHECKING:
    import ssl

    from kbs_rim.appraisal.endorsements import EndorsementStore
    from kbs_rim.reference_verifier.provisioning import ProvisioningSettings
    from kbs_rim.reference_verifier.signing import SigningKey

_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)
_ENDORSEMENT_SUFFIXES = frozenset({".cbor", ".corim", ".cose", ".json"})


def _address(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[str, int]:
    host, colon, port = value.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise click.BadParameter("write HOST:PORT, for instance 127.0.0.1:8090")
    return host.strip("[]") or "127.0.0.1", int(port)


def _fault_names() -> list[str]:
    from kbs_rim.reference_verifier.faults import Fault

    return [fault.value for fault in Fault]


class _FaultType(click.ParamType[str]):
    """A fault by name. The names are looked up when one is given, so that ``--help`` needs no heavy import."""

    name = "fault"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        names = _fault_names()
        if value not in names:
            self.fail(f"unknown fault {value!r}; known are {', '.join(names)}", param, ctx)
        return value


@click.command("verifier")
@click.option("--listen", callback=_address, default="127.0.0.1:8090", show_default=True, metavar="HOST:PORT")
@click.option(
    "--endorsements",
    type=click.Path(path_type=Path, exists=True),
    multiple=True,
    metavar="FILE|DIR",
    help="CoRIM (.cbor, .cose), CoMID or rust-ccatoken store (.json), or a directory of them. Repeatable.",
)
@click.option("--corim-root", type=_FILE, multiple=True, help="Root certificate (PEM) that signed CoRIMs must lead to. Repeatable.")
@click.option("--signing-key", type=click.Path(path_type=Path, dir_okay=False), required=True, help="P-256 private key, PEM or JWK.")
@click.option("--generate-key", is_flag=True, help="Make the signing key (mode 0600) if the file does not exist.")
@click.option("--print-key", is_flag=True, help="Print the public JWK, to be pinned by the broker, and exit.")
@click.option(
    "--provisioner-token-file", type=_FILE, help="Take CoRIMs over Veraison's provisioning API from whoever has the token in this file."
)
@click.option("--require-signed-corims", is_flag=True, help="Of those, take only signed ones that lead to a --corim-root.")
@click.option("--tls-certificate", type=_FILE, help="Certificate chain (PEM): serve https.")
@click.option("--tls-key", type=_FILE, help="Private key of the certificate (PEM).")
@click.option("--allow-test-keys", is_flag=True, help="Accept platforms, realms and a signing key whose keys are published. Tests only.")
@click.option("--fault", "faults", type=_FaultType(), multiple=True, help="Misbehave in this way. Repeatable. Tests only.")
@click.option("--delay", "delay_s", type=click.FloatRange(0, 600), default=1.0, show_default=True, help="Seconds, for --fault delay.")
@click.option(
    "--nonce-style", type=click.Choice(["t", "mid", "h"]), default="h", show_default=True, help="Veraison release, mid-2026, HEAD."
)
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON on stdout when ready.")
def command(
    *,
    listen: tuple[str, int],
    endorsements: tuple[Path, ...],
    corim_root: tuple[Path, ...],
    signing_key: Path,
    generate_key: bool,
    print_key: bool,
    provisioner_token_file: Path | None,
    require_signed_corims: bool,
    tls_certificate: Path | None,
    tls_key: Path | None,
    allow_test_keys: bool,
    faults: tuple[str, ...],
    delay_s: float,
    nonce_style: str,
    as_json: bool,
) -> int:
    """Verify CCA platform tokens for a broker, over Veraison's API.

    It knows the platforms whose trust anchors and reference values are given, and signs its results with its own key.
    Stop it with SIGTERM.
    """
    import asyncio

    from kbs_rim.reference_verifier.app import Settings
    from kbs_rim.reference_verifier.faults import Fault, NonceStyle
    from kbs_rim.reference_verifier.server import serve

    key = _signing_key(signing_key, generate_key)
    if print_key:
        click.echo(json.dumps(key.public_jwk(), indent=None if as_json else 2))
        return EXIT_OK
    settings = Settings(
        signing_key=key,
        endorsements=_load(endorsements, corim_root, allow_test_keys),
        allow_test_keys=allow_test_keys,
        faults=frozenset(Fault(name) for name in faults),
        nonce_style=NonceStyle(nonce_style),
        delay_s=delay_s,
        provisioning=_provisioning(provisioner_token_file, corim_root, require_signed_corims, allow_test_keys),
    )

    def ready(url: str) -> None:
        anchors, platforms, realms = settings.endorsements.sizes
        shown = ", ".join((counted(anchors, "trust anchor"), counted(platforms, "platform reference"), counted(realms, "realm reference")))
        if as_json:
            click.echo(json.dumps({"url": url, "key": key.public_jwk(), "thumbprint": key.thumbprint}))
        click.echo(f"kbs-rim: {shown}", err=True)
        if allow_test_keys or faults:
            click.echo("kbs-rim: THIS VERIFIER IS FOR TESTS: its results prove nothing", err=True)
        click.echo(f"kbs-rim: reference verifier ready on {url}, key {key.thumbprint}", err=True)

    asyncio.run(serve(settings, *listen, on_ready=ready, tls=_tls(tls_certificate, tls_key)))
    return EXIT_OK


def _signing_key(path: Path, generate: bool) -> "SigningKey":
    from kbs_rim.reference_verifier.signing import SigningKey

    if generate and not path.exists():
        key = SigningKey.generate()
        # Exclusive creation: of two starts at once, one makes the key and the other reads it or fails.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(key.pem())
        click.echo(f"kbs-rim: new signing key in {path}", err=True)
        return key
    if not path.exists():
        raise click.ClickException(f"{path}: there is no signing key; --generate-key makes one")
    return SigningKey.load(path.read_bytes())


def _provisioning(
    token_file: Path | None, roots: tuple[Path, ...], require_signature: bool, allow_test_keys: bool
) -> "ProvisioningSettings | None":
    from kbs_rim.cli.corim_files import certificates
    from kbs_rim.errors import ConfigurationError
    from kbs_rim.reference_verifier.provisioning import ProvisioningSettings

    if token_file is None:
        if require_signature:
            raise click.UsageError("--require-signed-corims needs --provisioner-token-file")
        return None
    try:
        return ProvisioningSettings(
            token=token_file.read_text().strip(),
            roots=certificates(roots),
            require_signature=require_signature,
            allow_test_keys=allow_test_keys,
        )
    except ValueError as error:
        raise ConfigurationError(f"{token_file}: {error}") from None


def _load(paths: tuple[Path, ...], roots: tuple[Path, ...], allow_test_keys: bool) -> "EndorsementStore":
    import time

    from cryptography.x509 import load_pem_x509_certificates

    from kbs_rim.appraisal.endorsement_files import parse_endorsements
    from kbs_rim.appraisal.endorsements import EndorsementStore
    from kbs_rim.appraisal.published_keys import is_published
    from kbs_rim.errors import ConfigurationError, InvalidDocument

    now = int(time.time())
    try:
        trusted = [certificate for path in roots for certificate in load_pem_x509_certificates(path.read_bytes())]
    except ValueError:
        raise ConfigurationError("a --corim-root file is not a PEM certificate") from None
    files = []
    for path in _files(paths):
        try:
            file = parse_endorsements(path.read_bytes(), roots=trusted, at=now)
        except InvalidDocument as error:
            raise InvalidDocument(error.finding_id, f"{path}: {error}", expected=error.expected, seen=error.seen) from error
        if not file.valid_at(now):
            click.echo(f"kbs-rim: {path} is outside its validity and counts for nothing", err=True)
        files.append(file)
    store = EndorsementStore(files)
    for anchor in store.trust_anchors:
        if not allow_test_keys and (name := is_published(anchor.key)):
            message = f"the trust anchor of {anchor.instance_id.hex()} is published ({name})"
            raise InvalidDocument("endorsement.test-key", message)
    return store


def _files(paths: tuple[Path, ...]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(file for file in path.iterdir() if file.suffix in _ENDORSEMENT_SUFFIXES)
        else:
            yield path


def _tls(certificate: Path | None, key: Path | None) -> "ssl.SSLContext | None":
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise click.UsageError("--tls-certificate and --tls-key are given together or not at all")
    from kbs_rim.tls_files import server_context

    return server_context(certificate, key, options=("--tls-certificate", "--tls-key"))
