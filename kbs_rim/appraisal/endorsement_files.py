"""Every format an endorsement file may have, told apart by content: CoRIM, CoMID templates in JSON, rust-ccatoken stores.

CoMID in JSON is what Veraison's ``cocli`` compiles; the stores are what Trustee's local CCA verifier reads
(verifiers.md 4.4). JSON carries no profile: it follows from what the file speaks about.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.x509 import Certificate

from kbs_rim.appraisal import comid
from kbs_rim.appraisal.annotated_evidence import decode_base64
from kbs_rim.appraisal.comid import Profile, malformed, read_comid
from kbs_rim.appraisal.corim import parse_corim
from kbs_rim.appraisal.endorsements import Endorsements, PlatformReference, RealmReference, ReferenceComponent, TrustAnchor
from kbs_rim.appraisal.public_jwk import read_public_jwk
from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence import strict_json
from kbs_rim.evidence.strict_cbor import CborMap, CborValue, Tagged
from kbs_rim.limits import DEFAULT_LIMITS, Limits

_JSON_ITEMS = 100_000
_HEX = re.compile(r"(?:[0-9a-fA-F]{2})*")
_TAGS = {"bytes": comid.TAG_BYTES, "ueid": comid.TAG_UEID, "uuid": comid.TAG_UUID}
_KEY_TAGS = {"pkix-base64-key": comid.TAG_PKIX_KEY, "pkix-base64-cert": comid.TAG_PKIX_CERT, "bytes": comid.TAG_BYTES}


def parse_endorsements(data: bytes, *, roots: Sequence[Certificate] = (), at: int, limits: Limits = DEFAULT_LIMITS) -> Endorsements:
    """Read one endorsement file of any known format; ``roots`` and ``at`` are for signed CoRIMs (see ``parse_corim``).

    Raises ``InvalidDocument("endorsement.*")``.
    """
    if data.lstrip()[:1] not in (b"{", b"["):
        return parse_corim(data, roots=roots, at=at, limits=limits)
    try:
        document = strict_json.decode(data, what="the endorsement file", max_bytes=limits.endorsement_bytes, max_items=_JSON_ITEMS)
    except MalformedEvidence as error:
        malformed(error.message, expected=error.expected, seen=error.seen)
    if isinstance(document, list):
        return Endorsements(trust_anchors=tuple(_stored_anchor(item) for item in _non_empty(document, "trust anchors")))
    if isinstance(document, dict) and "triples" in document:
        return _json_comid(document)
    if isinstance(document, dict) and {"platform", "realm"} & set(document):
        return _reference_store(document)
    return malformed("the JSON document is neither a CoMID nor a store of trust anchors or reference values")


# --- rust-ccatoken stores ---------------------------------------------------------------------------------------------


def _stored_anchor(item: Any) -> TrustAnchor:
    members = _object(item, "a trust anchor", {"implementation-id", "instance-id", "pkey"})
    jwk = _object(members.get("pkey"), "pkey", None)
    key, _ = read_public_jwk(jwk, finding_id="endorsement.malformed", what="the key of a trust anchor")
    if not isinstance(key, EllipticCurvePublicKey):
        malformed("the key of a trust anchor is not an EC key")
    try:
        return TrustAnchor(_hex(members, "implementation-id"), _hex(members, "instance-id"), key)
    except ValueError as error:
        malformed(f"trust anchor: {error}")


def _reference_store(document: Mapping[str, Any]) -> Endorsements:
    _object(document, "the store of reference values", {"platform", "realm"})
    try:
        return Endorsements(
            platforms=tuple(_stored_platform(item) for item in _list(document.get("platform", []), "platform")),
            realms=tuple(_stored_realm(item) for item in _list(document.get("realm", []), "realm")),
        )
    except ValueError as error:
        malformed(f"store of reference values: {error}")


def _stored_platform(item: Any) -> PlatformReference:
    members = _object(item, "a platform", {"implementation-id", "platform-configuration", "sw-components"})
    components = tuple(_stored_component(part) for part in _non_empty(members.get("sw-components"), "sw-components"))
    config = _hex(members, "platform-configuration") if "platform-configuration" in members else None
    return PlatformReference(_hex(members, "implementation-id"), components, config)


def _stored_component(item: Any) -> ReferenceComponent:
    members = _object(item, "a software component", {"component-type", "measurement-value", "signer-id", "version"})
    return ReferenceComponent(
        _hex(members, "measurement-value"),
        _hex(members, "signer-id"),
        _optional_text(members, "component-type"),
        _optional_text(members, "version"),
    )


def _stored_realm(item: Any) -> RealmReference:
    """Read a realm's reference values. The RAK's hash algorithm is read past: the RAK is bound by hash, whichever it is."""
    allowed = {"initial-measurement", "extensible-measurements", "personalization-value", "rak-hash-algorithm"}
    members = _object(item, "a realm", allowed)
    rems = [_hex({"": value}, "") for value in _list(members.get("extensible-measurements", []), "extensible-measurements")]
    rpv = _hex(members, "personalization-value") if "personalization-value" in members else None
    return RealmReference(_hex(members, "initial-measurement"), dict(enumerate(rems)), rpv)


# --- CoMID in JSON ----------------------------------------------------------------------------------------------------


def _json_comid(document: Mapping[str, Any]) -> Endorsements:
    triples = _object(document["triples"], "triples", {"reference-values", "attester-verification-keys"})
    shaped: CborMap = {}
    if "reference-values" in triples:
        shaped[comid.REFERENCE_TRIPLES] = tuple(_json_reference(item) for item in _list(triples["reference-values"], "reference-values"))
    if "attester-verification-keys" in triples:
        shaped[comid.ATTEST_KEY_TRIPLES] = tuple(
            _json_anchor(item) for item in _list(triples["attester-verification-keys"], "attester-verification-keys")
        )
    identity: CborValue = {} if isinstance(document.get("tag-identity"), dict) else None
    members: CborMap = {1: identity, 4: shaped}
    if "linked-tags" in document:
        members[3] = ()
    return read_comid(members, _profile_of(shaped))


def _profile_of(triples: CborMap) -> Profile:
    """A CoMID that names realm measurements is about realms; anything else must hold as one about platforms."""
    for triple in _tuple(triples.get(comid.REFERENCE_TRIPLES)):
        _, measurements = _tuple(triple)
        for measurement in _tuple(measurements):
            mkey = measurement.get(comid.MKEY) if isinstance(measurement, dict) else None
            if isinstance(mkey, str) and mkey.startswith(("cca.rim", "cca.rem", "cca.rpv")):
                return Profile.REALM
    return Profile.PLATFORM


def _tuple(value: CborValue) -> tuple[CborValue, ...]:
    return value if isinstance(value, tuple) else ()


def _json_reference(item: Any) -> CborValue:
    members = _object(item, "a reference value", {"environment", "measurements"})
    measurements = tuple(_json_measurement(one) for one in _list(members.get("measurements"), "measurements"))
    return (_json_environment(members.get("environment")), measurements)


def _json_anchor(item: Any) -> CborValue:
    members = _object(item, "an attester verification key", {"environment", "verification-keys"})
    keys = tuple(_json_choice(key, _KEY_TAGS, "a verification key") for key in _list(members.get("verification-keys"), "keys"))
    return (_json_environment(members.get("environment")), keys)


def _json_environment(value: Any) -> CborMap:
    members = _object(value, "environment", {"class", "instance", "group"})
    environment: CborMap = {}
    if "class" in members:
        names = {"id": comid.CLASS_ID, "vendor": comid.VENDOR, "model": comid.MODEL, "layer": 3, "index": 4}
        described = _object(members["class"], "environment.class", set(names))
        shaped: CborMap = {names[name]: None for name in described}
        if "id" in described:
            shaped[comid.CLASS_ID] = _json_choice(described["id"], _TAGS, "environment.class.id")
        environment[comid.CLASS] = shaped
    if "instance" in members:
        environment[comid.INSTANCE] = _json_choice(members["instance"], _TAGS, "environment.instance")
    if "group" in members:
        environment[comid.GROUP] = None
    return environment


def _json_measurement(item: Any) -> CborMap:
    members = _object(item, "a measurement", {"key", "value"})
    shaped: CborMap = {}
    if "key" in members:
        key = _object(members["key"], "mkey", {"type", "value"})
        shaped[comid.MKEY] = key["value"] if key.get("type") == "string" and isinstance(key.get("value"), str) else None
    if "value" in members:
        shaped[comid.MVAL] = _json_value(members["value"])
    return shaped


def _json_value(value: Any) -> CborMap:
    readers = {
        "version": (comid.VERSION, _json_version),
        "digests": (comid.DIGESTS, _json_digests),
        "raw-value": (comid.RAW_VALUE, lambda item: _json_choice(item, _TAGS, "raw-value")),
        "raw-value-mask": (comid.RAW_VALUE_MASK, lambda item: _base64(item, "raw-value-mask")),
        "name": (comid.NAME, lambda item: item if isinstance(item, str) else malformed("name is not text")),
        "cryptokeys": (
            comid.CRYPTOKEYS,
            lambda item: tuple(_json_choice(key, _KEY_TAGS, "cryptokeys") for key in _list(item, "cryptokeys")),
        ),
    }
    shaped: CborMap = {}
    for name, content in _object(value, "the value of a measurement", None).items():
        if name not in readers:
            malformed("the value of a measurement has a member that is not read here", seen=name[:40])
        number, read = readers[name]
        shaped[number] = read(content)
    return shaped


def _json_version(value: Any) -> CborValue:
    members = _object(value, "version", {"value", "scheme"})
    text = members.get("value")
    return {0: text if isinstance(text, str) else None}


def _json_digests(value: Any) -> CborValue:
    """Digests stand as ``[algorithm, base64]`` or, in older templates, as ``"algorithm;base64"``."""
    entries: list[CborValue] = []
    for item in _list(value, "digests"):
        pair = item.split(";", 1) if isinstance(item, str) else item
        if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], int | str):
            malformed("a digest is not an algorithm and a base64 text")
        entries.append((pair[0], _base64(pair[1], "a digest")))
    return tuple(entries)


def _json_choice(value: Any, tags: Mapping[str, int], what: str) -> CborValue:
    """Turn ``{"type": ..., "value": ...}`` into the tagged value of the CBOR form."""
    members = _object(value, what, {"type", "value"})
    kind = members.get("type")
    if not isinstance(kind, str) or kind not in tags:
        malformed(f"{what} has an unknown type", expected=", ".join(tags), seen=ascii(kind)[:40])
    if kind.startswith("pkix") or kind == "uuid":
        text = members.get("value")
        return Tagged(tags[kind], text if isinstance(text, str) else None)
    return Tagged(tags[kind], _base64(members.get("value"), what))


# --- JSON, typed ------------------------------------------------------------------------------------------------------


def _object(value: Any, what: str, allowed: set[str] | None) -> dict[str, Any]:
    if not isinstance(value, dict):
        malformed(f"{what} is not an object")
    if allowed is not None and (unknown := sorted(set(value) - allowed)):
        malformed(f"{what} has a member that is not read here", expected=", ".join(sorted(allowed)), seen=ascii(unknown[0])[:40])
    return value


def _list(value: Any, what: str) -> list[Any]:
    return value if isinstance(value, list) else malformed(f"{what} is not a list")


def _non_empty(value: Any, what: str) -> list[Any]:
    return _list(value, what) or malformed(f"{what} is empty")


def _hex(members: Mapping[str, Any], name: str) -> bytes:
    value = members.get(name)
    if not isinstance(value, str) or not _HEX.fullmatch(value):
        malformed(f"{name or 'a value'} is not hexadecimal")
    return bytes.fromhex(value)


def _optional_text(members: Mapping[str, Any], name: str) -> str | None:
    value = members.get(name)
    return value if value is None or isinstance(value, str) else malformed(f"{name} is not text")


def _base64(value: Any, what: str) -> bytes:
    data = decode_base64(value) if isinstance(value, str) else None
    return data if data is not None else malformed(f"{what} is not base64")
