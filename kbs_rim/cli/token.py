"""``kbs-rim token``: show and check CCA tokens, offline."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kbs_rim.cli import EXIT_OK, EXIT_REFUSED
from kbs_rim.errors import MalformedEvidence

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

    from kbs_rim.appraisal.findings import Finding
    from kbs_rim.evidence.cca_token import CcaToken

_LEGACY = "token.profile-legacy"


@click.group(name="token")
def command() -> None:
    """Show and check CCA tokens. FILE holds the token in binary or as base64url text; - is standard input."""


@command.command(name="show")
@click.argument("file")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: claims by label and by name, bytes in hex.")
def show(file: str, as_json: bool) -> int:
    """Print every claim of a token, acceptable or not. Nothing is verified."""
    from kbs_rim.cli.token_view import read_view, view_document, view_lines
    from kbs_rim.evidence.cca_token import parse_cca_token

    data = _read_token(file)
    view = read_view(data)
    refusal = None
    try:
        parse_cca_token(data)
    except MalformedEvidence as error:
        refusal = error
    if as_json:
        refused = None if refusal is None else {"id": refusal.finding_id, "message": str(refusal)}
        click.echo(json.dumps({**view_document(view), "refused": refused}, indent=1))
        return EXIT_OK
    for line in view_lines(view):
        click.echo(line)
    if refusal is not None:
        click.echo(f"\nThis token would be refused: {refusal.finding_id}: {refusal}")
    return EXIT_OK


def _hex(_context: click.Context, _parameter: click.Parameter, value: str | None) -> bytes | None:
    try:
        return None if value is None else bytes.fromhex(value)
    except ValueError:
        raise click.BadParameter("not hexadecimal") from None


@command.command(name="check")
@click.argument("file")
@click.option("--challenge", callback=_hex, metavar="HEX", help="The challenge that the realm token must answer, 64 bytes.")
@click.option("--cpak", metavar="JWK_OR_PEM", help="File with the platform's public key; its signature is checked then.")
@click.option("--allow-test-keys", is_flag=True, help="Accept keys and platforms whose private keys are published.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(file: str, challenge: bytes | None, cpak: str | None, allow_test_keys: bool, as_json: bool) -> int:
    """Check a token: structure, profile rules, realm signature, binding, and what the options give.

    Exit code 1 if it is refused, with one finding per line.
    """
    from kbs_rim.appraisal.findings import Finding, errors_of
    from kbs_rim.evidence.cca_token import parse_cca_token

    key = None if cpak is None else _read_key(cpak)
    data = _read_token(file)
    token: CcaToken | None = None
    try:
        token = parse_cca_token(data)
        findings = _judge(token, challenge, key, allow_test_keys)
    except MalformedEvidence as error:
        findings = [Finding.from_error(error)]
    if as_json:
        click.echo(json.dumps(_document(token, findings, challenge is not None, key is not None), indent=1))
    else:
        _print(token, findings)
    if token is None:
        return EXIT_REFUSED  # what was not read was not checked in any way
    if challenge is None:
        click.echo("freshness was not checked: give --challenge", err=True)
    if key is None:
        click.echo("the platform token's signature was not checked: give --cpak", err=True)
    return EXIT_REFUSED if errors_of(findings) else EXIT_OK


def _judge(token: "CcaToken", challenge: bytes | None, key: "EllipticCurvePublicKey | None", allow_test_keys: bool) -> list["Finding"]:
    """Collect all findings. Without a workload there is nobody to allow the legacy profile or a debug platform: they warn."""
    from kbs_rim.appraisal.findings import Finding, Severity
    from kbs_rim.appraisal.token_rules import judge_platform_claims, judge_platform_signature, judge_realm_token, lifecycle_state
    from kbs_rim.appraisal.workload import Lifecycle

    findings = list(judge_realm_token(token, challenge=challenge, allow_test_keys=allow_test_keys, allow_legacy_profile=False))
    findings += judge_platform_claims(token, allow_test_keys=allow_test_keys)
    if key is not None:
        findings += judge_platform_signature(token, key, allow_test_keys=allow_test_keys)
    state = lifecycle_state(token.platform.claims.lifecycle)
    if state is not Lifecycle.SECURED:
        findings.append(Finding("platform.lifecycle", f"the platform is in the state {state.value}", Severity.WARNING, seen=state.value))
    return [replace(finding, severity=Severity.WARNING) if finding.id == _LEGACY else finding for finding in findings]


def _print(token: "CcaToken | None", findings: list["Finding"]) -> None:
    """Refusals on stdout, warnings on stderr."""
    from kbs_rim.appraisal.findings import errors_of

    refused = errors_of(findings)
    for finding in findings:
        line = f"{finding.id}: {_line(finding)}"
        click.echo(line if finding in refused else f"warning: {line}", err=finding not in refused)
    if token is not None and not refused:
        realm = token.realm.claims
        click.echo(f"valid: {token.profile_pair}, RIM {realm.hash_algorithm.value} {realm.initial_measurement.hex()}")


def _line(finding: "Finding") -> str:
    details = [f"{name} {value}" for name, value in (("expected", finding.expected), ("seen", finding.seen)) if value is not None]
    return finding.message + (f" ({', '.join(details)})" if details else "")


def _document(token: "CcaToken | None", findings: list["Finding"], challenge: bool, signature: bool) -> dict[str, Any]:
    from kbs_rim.appraisal.findings import errors_of

    document: dict[str, Any] = {
        "valid": not errors_of(findings),
        "findings": [finding.to_document() for finding in findings],
        "checked": {"challenge": challenge, "platform_signature": signature},
    }
    if token is not None:
        pair, realm = token.profile_pair, token.realm.claims
        document["form"] = token.form.name.lower().replace("_", "-")
        document["profiles"] = {"platform": pair.platform, "realm": pair.realm}
        document["rim"] = {"algorithm": realm.hash_algorithm.value, "value": realm.initial_measurement.hex()}
    return document


def _read_token(file: str) -> bytes:
    """Read a token, in binary or base64url. The first byte tells them apart: a token starts with a CBOR tag, above 0x7f."""
    from kbs_rim.evidence import base64url
    from kbs_rim.limits import DEFAULT_LIMITS

    # A little more than the largest token in base64: the parser then says that it is too large.
    most = 2 * DEFAULT_LIMITS.token_bytes
    if file == "-":
        data: bytes = sys.stdin.buffer.read(most)
    else:
        with Path(file).open("rb") as stream:
            data = stream.read(most)
    if not data or data[0] > 0x7F:
        return data
    try:
        return base64url.decode(data.strip().rstrip(b"="))
    except MalformedEvidence:
        return data


def _read_key(file: str) -> "EllipticCurvePublicKey":
    """Read a public key as JWK or PEM; every problem is a "cannot do it", since nothing was judged yet."""
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    content = Path(file).read_bytes()
    try:
        key = _jwk_key(content) if content.lstrip().startswith(b"{") else load_pem_public_key(content)
    except (ValueError, MalformedEvidence) as error:
        raise click.ClickException(f"{file}: not a public key as JWK or PEM: {error}") from None
    if not isinstance(key, EllipticCurvePublicKey):
        raise click.ClickException(f"{file}: not an elliptic curve key")
    return key


def _jwk_key(content: bytes) -> "EllipticCurvePublicKey":
    """Read an EC JWK; raise ``ValueError`` or ``MalformedEvidence``."""
    from cryptography.hazmat.primitives.asymmetric.ec import (
        SECP256R1,
        SECP384R1,
        SECP521R1,
        EllipticCurve,
        EllipticCurvePublicNumbers,
    )

    from kbs_rim.evidence import base64url, strict_json

    document = strict_json.decode(content, what="the JWK")
    jwk = document if isinstance(document, dict) else {}
    curves: dict[str, EllipticCurve] = {"P-256": SECP256R1(), "P-384": SECP384R1(), "P-521": SECP521R1()}
    curve = curves.get(str(jwk.get("crv")))
    x, y = jwk.get("x"), jwk.get("y")
    if jwk.get("kty") != "EC" or curve is None or not isinstance(x, str) or not isinstance(y, str):
        raise ValueError("kty must be EC, crv P-256, P-384 or P-521, x and y text")
    if "d" in jwk:
        click.echo("the key file holds a private key; only its public half is used", err=True)
    point_x, point_y = (int.from_bytes(base64url.decode(coordinate, what="a coordinate"), "big") for coordinate in (x, y))
    return EllipticCurvePublicNumbers(point_x, point_y, curve).public_key()
