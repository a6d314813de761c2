"""How a CCA token is shown: every claim by name, whether or not the token would be accepted.

Text in a token is the sender's: it is escaped before it reaches a terminal.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kbs_rim.appraisal.token_rules import lifecycle_state
from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence import token_claims as tc
from kbs_rim.evidence.cca_token import TokenForm, decode_claims
from kbs_rim.evidence.claim_shapes import Array, Claim, Record, Shape
from kbs_rim.evidence.cose import ALGORITHMS, SIGN1_TAG, Sign1, parse_sign1
from kbs_rim.evidence.strict_cbor import CborMap, CborValue, Tagged, leading_tag
from kbs_rim.evidence.token_collection import split_collection
from kbs_rim.limits import DEFAULT_LIMITS, Limits

_PLATFORM, _REALM = "platform", "realm"
_TABLES: Mapping[str, tuple[Claim, ...]] = {
    _PLATFORM: tc.PLATFORM_PROFILES[tc.PLATFORM_2024],
    _REALM: tc.REALM_PROFILES[tc.REALM_2024].claims,
}
"""The richest tables: they name every claim of the others."""
_FORM_NAMES = {TokenForm.EAT_COLLECTION: "EAT collection", TokenForm.CMW_COLLECTION: "CMW collection"}


@dataclass(frozen=True, slots=True)
class TokenPart:
    """One signed part, decoded but not judged. ``role`` is "platform" or "realm"."""

    role: str
    size_bytes: int
    sign1: Sign1
    claims: CborMap


@dataclass(frozen=True, slots=True)
class TokenView:
    """What ``token show`` shows. ``form`` is None for a bare COSE_Sign1."""

    form: TokenForm | None
    parts: tuple[TokenPart, ...]


def read_view(data: bytes, limits: Limits = DEFAULT_LIMITS) -> TokenView:
    """Decode a collection, or a platform or realm token on its own, without judging a claim.

    Raises ``MalformedEvidence`` if not even the structure can be read.
    """
    if leading_tag(data) == SIGN1_TAG:
        part = _part("", data, limits)
        role = _REALM if tc.RIM in part.claims else _PLATFORM
        return TokenView(None, (TokenPart(role, part.size_bytes, part.sign1, part.claims),))
    collection = split_collection(data, limits)
    return TokenView(collection.form, (_part(_PLATFORM, collection.platform, limits), _part(_REALM, collection.realm, limits)))


def _part(role: str, raw: bytes, limits: Limits) -> TokenPart:
    what = f"{role} token".strip()
    sign1 = parse_sign1(raw, limits=limits, what=what)
    return TokenPart(role, len(raw), sign1, decode_claims(sign1, what, limits))


def view_document(view: TokenView) -> dict[str, Any]:
    """Return the JSON form: per part the headers, the claims by label, the claims by name, and the signature; bytes in hex."""
    document: dict[str, Any] = {"form": "cose-sign1", "tag": SIGN1_TAG}
    if view.form is not None:
        document = {"form": _FORM_NAMES[view.form].lower().replace(" ", "-"), "tag": view.form.value}
    for part in view.parts:
        document[part.role] = {
            "protected": _header(part.sign1.protected),
            "unprotected": _header(part.sign1.unprotected),
            "claims": _plain(part.claims),
            "named": _named(part.claims, _TABLES[part.role]),
            "signature": part.sign1.signature.hex(),
        }
    return document


def view_lines(view: TokenView) -> Iterator[str]:
    """Yield the readable form."""
    yield "bare COSE_Sign1 (tag 18)" if view.form is None else f"{_FORM_NAMES[view.form]} (tag {view.form.value})"
    for part in view.parts:
        algorithm = part.sign1.protected.get(1)
        known = ALGORITHMS.get(algorithm) if isinstance(algorithm, int) else None
        yield ""
        yield f"{part.role} token: {known.name if known else f'algorithm {_show(algorithm)}'}, {part.size_bytes} bytes"
        yield from _claim_lines(part.claims, _TABLES[part.role], "  ")


def _claim_lines(claims: CborMap, table: tuple[Claim, ...], indent: str) -> Iterator[str]:
    known = {claim.label: claim for claim in table}
    for label, value in claims.items():
        claim = known.get(label) if isinstance(label, int) else None
        title = f"{indent}{(claim.name if claim else 'unknown claim') + ' (' + _show(label) + ')':<40}"
        if claim is not None and isinstance(value, tuple) and value:
            yield title.rstrip()
            yield from _array_lines(value, claim.shape, indent + "  ")
        else:
            yield f"{title} {_show_lifecycle(value) if label == tc.LIFECYCLE else _show(value)}"


def _array_lines(values: tuple[CborValue, ...], shape: Shape, indent: str) -> Iterator[str]:
    inner = shape.item if isinstance(shape, Array) else shape
    for index, value in enumerate(values):
        if isinstance(inner, Record) and isinstance(value, dict):
            yield f"{indent}[{index}]"
            yield from _claim_lines(value, inner.claims, indent + "  ")
        else:
            yield f"{indent}[{index}] {_show(value)}"


def _show(value: CborValue) -> str:
    """Return one line that no terminal takes for a command."""
    if isinstance(value, str):
        return value if value.isprintable() else json.dumps(value)
    if isinstance(value, bytes):
        return value.hex()
    return json.dumps(_plain(value))


def _show_lifecycle(value: CborValue) -> str:
    if isinstance(value, bool) or not isinstance(value, int):
        return _show(value)
    try:
        return f"0x{value:04x} ({lifecycle_state(value).value})"
    except MalformedEvidence:
        return f"0x{value:04x} (undefined)"


def _header(header: Mapping[int, CborValue]) -> dict[str, Any]:
    return {str(label): _plain(value) for label, value in header.items()}


def _plain(value: CborValue) -> Any:
    """Return ``value`` in terms of JSON: bytes as hex, labels as text."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(label): _plain(item) for label, item in value.items()}
    if isinstance(value, Tagged):
        return {"tag": value.number, "value": _plain(value.value)}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _named(claims: CborMap, table: tuple[Claim, ...]) -> dict[str, Any]:
    """Return the known claims under their names, in snake case; unknown ones are left to the listing by label."""
    return {claim.name.replace(" ", "_"): _named_value(claims[claim.label], claim.shape) for claim in table if claim.label in claims}


def _named_value(value: CborValue, shape: Shape) -> Any:
    if isinstance(shape, Array) and isinstance(value, tuple):
        return [_named_value(item, shape.item) for item in value]
    if isinstance(shape, Record) and isinstance(value, dict):
        return _named(value, shape.claims)
    return _plain(value)
