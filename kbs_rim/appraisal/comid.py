"""CoMID for Arm CCA: environments, measurements and keys (verifiers.md 3.3), from their CBOR shape.

Both encodings of a CoMID, CBOR and the JSON templates of Veraison's tools, end here: the JSON reader translates its names
into the integer keys and tags of the CBOR form first. Nothing in a triple is skipped: a member we do not read might restrict
what the endorser meant, so it is refused.
"""

import re
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import NoReturn

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from kbs_rim.appraisal.endorsements import (
    DIGEST_BYTES,
    Endorsements,
    PlatformReference,
    RealmReference,
    ReferenceComponent,
    TrustAnchor,
)
from kbs_rim.errors import InvalidDocument
from kbs_rim.evidence.strict_cbor import CborMap, CborValue, Tagged

TAG_UUID, TAG_UEID, TAG_PKIX_KEY, TAG_PKIX_CERT, TAG_BYTES = 37, 550, 554, 555, 560
"""CBOR tags of the type choices (draft-ietf-rats-corim)."""
CLASS, INSTANCE, GROUP = 0, 1, 2
CLASS_ID, VENDOR, MODEL = 0, 1, 2
REFERENCE_TRIPLES, ATTEST_KEY_TRIPLES = 0, 3
MKEY, MVAL = 0, 1
VERSION, DIGESTS, RAW_VALUE, RAW_VALUE_MASK, NAME, CRYPTOKEYS = 0, 2, 4, 5, 11, 13

_COMID_IDENTITY, _COMID_LINKED, _COMID_TRIPLES = 1, 3, 4
_COMPONENT, _CONFIG, _RIM, _RPV = "cca.software-component", "cca.platform-config", "cca.rim", "cca.rpv"
_REMS = {f"cca.rem{number}": number for number in range(4)}
_DIGEST_SIZES: Mapping[int | str, int] = {1: 32, 7: 48, 8: 64, "sha-256": 32, "sha-384": 48, "sha-512": 64}
"""IANA Named Information algorithm numbers and names; Veraison takes both."""
_PEM = re.compile(r"-----BEGIN PUBLIC KEY-----\n[A-Za-z0-9+/=\n]+-----END PUBLIC KEY-----\n?")


class Profile(Enum):
    """The two CoRIM profiles of draft-ydb-rats-cca-endorsements that are read here."""

    PLATFORM = "tag:arm.com,2025:cca_platform#1.0.0"
    REALM = "tag:arm.com,2025:cca_realm#1.0.0"


def malformed(message: str, *, expected: str | None = None, seen: str | None = None) -> NoReturn:
    """Refuse an endorsement file."""
    raise InvalidDocument("endorsement.malformed", message, expected=expected, seen=seen)


def as_map(value: CborValue, what: str) -> CborMap:
    """Return ``value`` if it is a map, else refuse."""
    return value if isinstance(value, dict) else malformed(f"{what} is not a map")


def as_array(value: CborValue, what: str) -> tuple[CborValue, ...]:
    """Return ``value`` if it is an array of at least one item, else refuse."""
    return value if isinstance(value, tuple) and value else malformed(f"{what} is not a non-empty array")


def only(members: CborMap, allowed: Sequence[int], what: str) -> None:
    """Refuse members other than ``allowed``."""
    for key in members:
        if key not in allowed:
            malformed(f"{what} has a member that is not read here", seen=str(key)[:40])


def read_comid(comid: CborMap, profile: Profile) -> Endorsements:
    """Read one CoMID under ``profile``; raise ``InvalidDocument("endorsement.malformed")``."""
    if _COMID_LINKED in comid:
        malformed("the CoMID supplements or replaces another one, which is not supported")
    as_map(comid.get(_COMID_IDENTITY), "the CoMID's tag-identity")
    triples = as_map(comid.get(_COMID_TRIPLES), "the CoMID's triples")
    if not triples:
        malformed("the CoMID has no triples")
    only(triples, (REFERENCE_TRIPLES, ATTEST_KEY_TRIPLES), "the CoMID's triples")
    if profile is Profile.REALM:
        only(triples, (REFERENCE_TRIPLES,), "a realm CoMID's triples")
        return Endorsements(realms=tuple(_realm(*pair) for pair in _pairs(triples, REFERENCE_TRIPLES)))
    return Endorsements(
        platforms=tuple(_platform(*pair) for pair in _pairs(triples, REFERENCE_TRIPLES)),
        trust_anchors=tuple(_trust_anchor(*pair) for pair in _pairs(triples, ATTEST_KEY_TRIPLES)),
    )


def _pairs(triples: CborMap, kind: int) -> list[tuple[CborMap, tuple[CborValue, ...]]]:
    if kind not in triples:
        return []
    pairs = []
    for triple in as_array(triples[kind], "a list of triples"):
        if not isinstance(triple, tuple) or len(triple) != 2:
            malformed("a triple is not an environment and a list")
        pairs.append((as_map(triple[0], "environment"), as_array(triple[1], "the list of a triple")))
    return pairs


# --- environments -----------------------------------------------------------------------------------------------------


def _class_id(environment: CborMap, what: str, id_name: str, extra: tuple[int, ...]) -> bytes:
    if CLASS not in environment:
        malformed(f"environment.class is required for CCA {what} profile")
    members = as_map(environment[CLASS], "environment.class")
    if CLASS_ID not in members:
        malformed(f"environment.class.class-id is required for CCA {what} profile")
    only(members, (CLASS_ID, *extra), "environment.class")
    return _tagged_bytes(members[CLASS_ID], TAG_BYTES, id_name, "bytes")


def _implementation_id(environment: CborMap) -> bytes:
    # Vendor and model name what the implementation id identifies already, so reading past them widens nothing.
    value = _class_id(environment, "Platform", "implementation id", (VENDOR, MODEL))
    if len(value) != 32:
        malformed("implementation id must be 32 bytes", seen=f"{len(value)} bytes")
    return value


def _tagged_bytes(value: CborValue, tag: int, what: str, kind: str) -> bytes:
    if not isinstance(value, Tagged) or value.number != tag or not isinstance(value.value, bytes):
        malformed(f"{what} must be of type '{kind}'")
    return value.value


# --- triples ----------------------------------------------------------------------------------------------------------


def _trust_anchor(environment: CborMap, keys: tuple[CborValue, ...]) -> TrustAnchor:
    only(environment, (CLASS, INSTANCE), "environment")
    implementation_id = _implementation_id(environment)
    if INSTANCE not in environment:
        malformed("environment.instance is required for a CCA platform trust anchor")
    instance_id = _tagged_bytes(environment[INSTANCE], TAG_UEID, "environment.instance", "ueid")
    if len(keys) != 1:
        malformed("a trust anchor must have exactly one key", seen=str(len(keys)))
    key = keys[0]
    if not isinstance(key, Tagged) or key.number != TAG_PKIX_KEY or not isinstance(key.value, str):
        malformed("the key of a trust anchor must be of type 'pkix-base64-key'")
    try:
        return TrustAnchor(implementation_id, instance_id, _public_key(key.value))
    except ValueError as error:
        malformed(f"trust anchor: {error}")


def _public_key(pem: str) -> EllipticCurvePublicKey:
    if not _PEM.fullmatch(pem):
        malformed("the key of a trust anchor must be one PEM public key and nothing else")
    try:
        key = load_pem_public_key(pem.encode("ascii"))
    except (ValueError, UnsupportedAlgorithm):
        malformed("the key of a trust anchor is not a readable public key")
    return key if isinstance(key, EllipticCurvePublicKey) else malformed("the key of a trust anchor is not an EC key")


def _platform(environment: CborMap, measurements: tuple[CborValue, ...]) -> PlatformReference:
    implementation_id = _implementation_id(environment)
    only(environment, (CLASS,), "environment of platform reference values")
    components: list[ReferenceComponent] = []
    config: bytes | None = None
    for mkey, mval in _measurements(measurements):
        if mkey == _COMPONENT:
            components.append(_component(mval))
        elif mkey == _CONFIG and config is None:
            config = _config(mval)
        elif mkey == _CONFIG:
            malformed("cca.platform-config stands twice")
        else:
            malformed(f"invalid mkey {mkey[:60]!r} for CCA Platform profile", expected=f"{_COMPONENT} or {_CONFIG}")
    if not components:
        malformed("platform reference values need at least one cca.software-component")
    return PlatformReference(implementation_id, tuple(components), config)


def _realm(environment: CborMap, measurements: tuple[CborValue, ...]) -> RealmReference:
    rim = _class_id(environment, "Realm", "RIM", ())
    only(environment, (CLASS,), "environment of realm reference values")
    digests: dict[str, bytes] = {}
    rpv: bytes | None = None
    for mkey, mval in _measurements(measurements):
        if mkey in digests or (mkey == _RPV and rpv is not None):
            malformed(f"{mkey} stands twice")
        if mkey == _RPV:
            rpv = _raw_value(mval, _RPV)
            only(mval, (RAW_VALUE,), _RPV)
        elif mkey == _RIM or mkey in _REMS:
            digests[mkey] = _digest(mval)
            only(mval, (DIGESTS,), mkey)
        else:
            malformed(f"invalid mkey {mkey[:60]!r} for CCA Realm profile")
    if _RIM not in digests:
        malformed("RIM (cca.rim) measurement is mandatory but not found")
    if digests.pop(_RIM) != rim:
        malformed("the cca.rim digest is not the RIM of environment.class")
    try:
        return RealmReference(rim, {_REMS[name]: value for name, value in digests.items()}, rpv)
    except ValueError as error:
        malformed(f"realm reference values: {error}")


# --- measurements -----------------------------------------------------------------------------------------------------


def _measurements(values: tuple[CborValue, ...]) -> list[tuple[str, CborMap]]:
    measurements = []
    for value in values:
        members = as_map(value, "a measurement")
        if MKEY not in members:
            malformed("mkey is mandatory but not set")
        mkey = members[MKEY]
        if not isinstance(mkey, str):
            malformed("invalid mkey: not of type 'string'")
        only(members, (MKEY, MVAL), "a measurement")
        measurements.append((mkey, as_map(members.get(MVAL), f"the value of {mkey[:60]}")))
    return measurements


def _component(mval: CborMap) -> ReferenceComponent:
    digest = _digest(mval)
    if CRYPTOKEYS not in mval:
        malformed("cryptokeys (the signer id) is mandatory but not set")
    signers = as_array(mval[CRYPTOKEYS], "cryptokeys")
    if len(signers) != 1:
        malformed("cryptokeys must contain exactly one signer id")
    signer = _tagged_bytes(signers[0], TAG_BYTES, "the signer id in cryptokeys", "bytes")
    name, version = mval.get(NAME), mval.get(VERSION)
    if name is not None and not isinstance(name, str):
        malformed("the name of a software component is not text")
    only(mval, (VERSION, DIGESTS, NAME, CRYPTOKEYS), _COMPONENT)
    try:
        return ReferenceComponent(digest, signer, name, _version(version))
    except ValueError as error:
        malformed(f"{_COMPONENT}: {error}")


def _version(value: CborValue) -> str | None:
    if value is None:
        return None
    text = as_map(value, "version").get(0)
    return text if isinstance(text, str) else malformed("the version of a software component is not text")


def _config(mval: CborMap) -> bytes:
    """Read the platform configuration. Its mask must be there, as Veraison demands, and is not applied, as Veraison does."""
    value = _raw_value(mval, _CONFIG)
    mask = mval.get(RAW_VALUE_MASK)
    if not isinstance(mask, bytes) or len(mask) != len(value):
        malformed("raw-value-mask of cca.platform-config is mandatory and as long as the value")
    only(mval, (RAW_VALUE, RAW_VALUE_MASK), _CONFIG)
    return value


def _raw_value(mval: CborMap, what: str) -> bytes:
    if RAW_VALUE not in mval:
        malformed(f"raw-value is mandatory for {what}")
    return _tagged_bytes(mval[RAW_VALUE], TAG_BYTES, f"raw-value of {what}", "bytes")


def _digest(mval: CborMap) -> bytes:
    if DIGESTS not in mval:
        malformed("digests field is mandatory but not set")
    entries = as_array(mval[DIGESTS], "digests")
    if len(entries) != 1:
        malformed("digests must contain exactly one entry", seen=str(len(entries)))
    entry = entries[0]
    algorithm, value = entry if isinstance(entry, tuple) and len(entry) == 2 else (None, None)
    if not isinstance(value, bytes):
        malformed("a digest is not an algorithm and a byte string")
    if len(value) not in DIGEST_BYTES:
        malformed("hash value must be 32, 48, or 64 bytes", seen=f"{len(value)} bytes")
    if not isinstance(algorithm, int | str) or isinstance(algorithm, bool) or algorithm not in _DIGEST_SIZES:
        malformed("the hash algorithm of a digest is unknown", expected="1, 7, 8, sha-256, sha-384 or sha-512")
    if _DIGEST_SIZES[algorithm] != len(value):
        malformed("a digest has another length than its hash algorithm gives", seen=f"{len(value)} bytes")
    return value
