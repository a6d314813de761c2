"""What every ``kbs-rim corim`` command needs of files: private keys, trusted keys and roots, templates, times; and writing a result."""

import errno
import json
import os
import secrets
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kbs_rim.errors import ConfigurationError, InvalidDocument, MalformedEvidence
from kbs_rim.evidence import strict_json

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
    from cryptography.x509 import Certificate

    from kbs_rim.appraisal.corim_signature import SignerKey

IN = click.Path(path_type=Path, dir_okay=False, exists=True, allow_dash=True)
OUT = click.Path(path_type=Path, dir_okay=False, allow_dash=True)
_FORBIDDEN_BITS = 0o077
_MAX_KEY_BYTES = 64 * 1024
_JSON_ITEMS = 100_000
_CURVES = {"P-256": "SECP256R1", "P-384": "SECP384R1", "P-521": "SECP521R1"}


def read(path: Path, most: int) -> bytes:
    """Read a file (- is standard input), at most one byte more than ``most``: who judges it says that it is too large."""
    if str(path) == "-":
        data: bytes = sys.stdin.buffer.read(most + 1)
        return data
    with path.open("rb") as stream:
        return stream.read(most + 1)


def write(path: Path, data: bytes) -> None:
    """Write a result: to standard output if ``path`` is -, else all of it or nothing. Binary data never goes to a terminal."""
    if str(path) == "-":
        if sys.stdout.isatty() and not data.isascii():
            raise click.UsageError("will not write a CoRIM to a terminal: give --output FILE")
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    if path.exists() and not path.is_file():
        path.write_bytes(data)  # a pipe or a device is written to, not replaced
        return
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}"
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def moment(_context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """Read a time as seconds since the epoch; a click callback."""
    if value is None:
        return None
    try:
        found = datetime.fromisoformat(value)
        return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        raise click.BadParameter(f"write {parameter.name} as 2026-11-23 or 2026-11-23T12:00:00Z") from None


def shown(seconds: int | None) -> str | None:
    """Write a time as ``moment`` reads it."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def document(path: Path, most: int) -> Any:
    """Read JSON or TOML, told apart by the suffix ``.toml``; raise ``InvalidDocument``."""
    data = read(path, most)
    if len(data) > most:
        raise InvalidDocument("endorsement.malformed", f"{path} is larger than {most} bytes")
    try:
        if path.suffix == ".toml":
            return tomllib.loads(data.decode())
        return strict_json.decode(data, what="the document", max_bytes=most, max_items=_JSON_ITEMS)
    except (ValueError, RecursionError, MalformedEvidence) as error:
        raise InvalidDocument("endorsement.malformed", f"{path}: {error}") from None


# --- keys -------------------------------------------------------------------------------------------------------------


def signing_key(path: Path) -> "EllipticCurvePrivateKey":
    """Read a private key as PEM or JWK; raise ``ConfigurationError``. Warns if others may read the file."""
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    content = read(path, _MAX_KEY_BYTES)
    if str(path) != "-" and path.stat().st_mode & _FORBIDDEN_BITS:
        click.echo(f"kbs-rim: {path} can be read by others than its owner: chmod 600 {path}", err=True)
    try:
        key = _private_jwk(json.loads(content)) if content.lstrip()[:1] == b"{" else load_pem_private_key(content, None)
    except TypeError:
        raise ConfigurationError(f"{path}: the key is protected by a password, which is not supported; decrypt it first") from None
    except (ValueError, KeyError, AttributeError):
        raise ConfigurationError(f"{path}: not a private key in PEM or JWK form") from None
    if not isinstance(key, EllipticCurvePrivateKey):
        raise ConfigurationError(f"{path}: not an EC key: CoRIMs are signed with P-256, P-384 or P-521")
    return key


def _private_jwk(jwk: Any) -> "EllipticCurvePrivateKey":
    """Read an EC JWK with its private member; raise ``ValueError`` or ``KeyError``."""
    from cryptography.hazmat.primitives.asymmetric import ec

    from kbs_rim.evidence import base64url

    if jwk["kty"] != "EC":
        raise ValueError("not an EC key")
    curve: ec.EllipticCurve = getattr(ec, _CURVES[jwk["crv"]])()
    x, y, d = (int.from_bytes(base64url.decode(str(jwk[name]).rstrip("=")), "big") for name in ("x", "y", "d"))
    return ec.EllipticCurvePrivateNumbers(d, ec.EllipticCurvePublicNumbers(x, y, curve)).private_key()


def trusted_keys(paths: tuple[Path, ...]) -> "tuple[SignerKey, ...]":
    """Read public keys, as PEM or JWK, or out of certificates, that may sign; raise ``ConfigurationError``."""
    from kbs_rim.appraisal.corim_signature import SignerKey

    return tuple(SignerKey(str(path), _public_key(path)) for path in paths)


def _public_key(path: Path) -> "EllipticCurvePublicKey":
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    from kbs_rim.appraisal.public_jwk import read_public_jwk

    content = read(path, _MAX_KEY_BYTES)
    try:
        if content.lstrip()[:1] == b"{":
            jwk = json.loads(content)
            key: Any = read_public_jwk(jwk, finding_id="endorsement.signature", what=str(path))[0]
        elif b"BEGIN CERTIFICATE" in content or content[:1] == b"\x30":
            key = certificates((path,))[0].public_key()
        else:
            key = load_pem_public_key(content)
    except (ValueError, TypeError, AttributeError):
        raise ConfigurationError(f"{path}: not a public key in PEM or JWK form, nor a certificate") from None
    if not isinstance(key, EllipticCurvePublicKey):
        raise ConfigurationError(f"{path}: not an EC key")
    return key


def certificates(paths: tuple[Path, ...]) -> "tuple[Certificate, ...]":
    """Read certificates, PEM (any number in a file) or DER; raise ``ConfigurationError``."""
    from cryptography.x509 import load_der_x509_certificate, load_pem_x509_certificates

    found: list[Certificate] = []
    for path in paths:
        content = read(path, _MAX_KEY_BYTES)
        try:
            found += load_pem_x509_certificates(content) if b"-----BEGIN" in content else [load_der_x509_certificate(content)]
        except ValueError:
            raise ConfigurationError(f"{path}: not a certificate in PEM or DER form") from None
    return tuple(found)
