"""CoMID for Arm CCA: environments, measurements and keys (draft-ydb-rats-cca-endorsements), from their CBOR shape.

Both encodings of a CoMID, CBOR and the JSON templates of Veraison's tools, end here: the JSON reader translates its names
into the integer keys and tags of the CBOR form first. Nothing in a triple is skipped: a member we do not read might restrict
what the endorser meant, so it is refused.
"""

import re
from collections.abc import Mapping
from uuid import UUID

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from kbs_rim.appraisal.comid_shape import (
    ATTEST_KEY_TRIPLES,
    CLASS,
    CLASS_ID,
    COMID_ENTITIES,
    COMID_IDENTITY,
    COMID_LANGUAGE,
    COMID_LINKED,
    COMID_TRIPLES,
    COMPONENT_KEY,
    CONFIG_KEY,
    CRYPTOKEYS,
    DIGESTS,
    ENTITY_NAME,
    ENTITY_ROLES,
    ENTITY_URI,
    INSTANCE,
    MKEY,
    MODEL,
    MVAL,
    NAME,
    RAW_VALUE,
    RAW_VALUE_MASK,
    REFERENCE_TRIPLES,
    REM_KEYS,
    RIM_KEY,
    RPV_KEY,
    TAG_BYTES,
    TAG_PKIX_KEY,
    TAG_UEID,
    TAG_URI,
    TAG_UUID,
    VENDOR,
    VERSION,
    as_array,
    as_map,
    malformed,
    only,
    tagged_bytes,
)
from kbs_rim.appraisal.corim_document import Comid, Entity, Profile, TagId
from kbs_rim.appraisal.endorsements import (
    DIGEST_BYTES,
    Endorsements,
    PlatformReference,
    RealmReference,
    ReferenceComponent,
    TrustAnchor,
)
from kbs_rim.appraisal.image_comid import read_image_triples
from kbs_rim.appraisal.image_reference import BuildPlan, ImageReference
from kbs_rim.evidence.strict_cbor import CborMap, CborValue, Tagged
from kbs_rim.limits import DEFAULT_LIMITS, Limits

_DIGEST_SIZES: Mapping[int | str, int] = {1: 32, 7: 48, 8: 64, "sha-256": 32, "sha-384": 48, "sha-512": 64}
"""IANA Named Information algorithm numbers and names; Veraison takes both."""
_PEM = re.compile(r"-----BEGIN PUBLIC KEY-----\n[A-Za-z0-9+/=\n]+-----END PUBLIC KEY-----\n?")


def read_comid(comid: CborMap, profile: Profile, limits: Limits = DEFAULT_LIMITS) -> Comid:
    """Read one CoMID under ``profile``; raise ``InvalidDocument("endorsement.malformed")``."""
    only(comid, range(5), "the CoMID")
    if COMID_LINKED in comid:
        malformed("the CoMID supplements or replaces another one, which is not supported")
    identity = as_map(comid.get(COMID_IDENTITY), "the CoMID's tag-identity")
    only(identity, range(2), "the CoMID's tag-identity")
    triples = as_map(comid.get(COMID_TRIPLES), "the CoMID's triples")
    if not triples:
        malformed("the CoMID has no triples")
    only(triples, (REFERENCE_TRIPLES, ATTEST_KEY_TRIPLES), "the CoMID's triples")
    if profile is not Profile.PLATFORM:
        only(triples, (REFERENCE_TRIPLES,), f"the triples of a CoMID for {profile.name.lower()}s")
    version, language = identity.get(1, 0), comid.get(COMID_LANGUAGE)
    if type(version) is not int or not (language is None or isinstance(language, str)):
        malformed("the CoMID's version is not a number, or its language not text")
    tag_id, entities = read_tag_id(identity.get(0), "the CoMID's tag-id"), read_entities(comid.get(COMID_ENTITIES))
    described = read_image_triples(_pairs(triples, REFERENCE_TRIPLES), limits) if profile is Profile.IMAGE else ()
    try:
        return Comid(
            tag_id=tag_id,
            version=version,
            language=language,
            entities=entities,
            endorsements=Endorsements() if profile is Profile.IMAGE else _read_endorsements(triples, profile),
            images=tuple(item for item in described if isinstance(item, ImageReference)),
            plans=tuple(item for item in described if isinstance(item, BuildPlan)),
        )
    except ValueError as error:
        malformed(f"CoMID: {error}")


def read_tag_id(value: CborValue, what: str) -> TagId:
    """Read an id: text, or 16 bytes of a UUID, which may have its tag."""
    content = value.value if isinstance(value, Tagged) and value.number == TAG_UUID else value
    if isinstance(content, bytes) and len(content) == 16:
        return UUID(bytes=content)
    return content if isinstance(content, str) and content else malformed(f"{what} is neither text nor a UUID")


def read_entities(value: CborValue) -> tuple[Entity, ...]:
    """Read the entities of a CoRIM or CoMID; none if ``value`` is None."""
    if value is None:
        return ()
    entities = []
    for item in as_array(value, "a list of entities"):
        members = as_map(item, "an entity")
        only(members, range(3), "an entity")
        name, roles = members.get(ENTITY_NAME), as_array(members.get(ENTITY_ROLES), "the roles of an entity")
        uri = members.get(ENTITY_URI)
        content = uri.value if isinstance(uri, Tagged) and uri.number == TAG_URI else uri
        if not isinstance(name, str) or not (content is None or isinstance(content, str)):
            malformed("the name or URI of an entity is not text")
        numbers = tuple(role for role in roles if type(role) is int)
        if len(numbers) != len(roles):
            malformed("a role of an entity is not a number")
        try:
            entities.append(Entity(name, content, numbers))
        except ValueError as error:
            malformed(str(error))
    return tuple(entities)


def _read_endorsements(triples: CborMap, profile: Profile) -> Endorsements:
    if profile is Profile.REALM:
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
    return tagged_bytes(members[CLASS_ID], TAG_BYTES, id_name, "bytes")


def _implementation_id(environment: CborMap) -> bytes:
    # Vendor and model name what the implementation id identifies already, so reading past them widens nothing.
    value = _class_id(environment, "Platform", "implementation id", (VENDOR, MODEL))
    if len(value) != 32:
        malformed("implementation id must be 32 bytes", seen=f"{len(value)} bytes")
    return value


# --- triples ----------------------------------------------------------------------------------------------------------


def _trust_anchor(environment: CborMap, keys: tuple[CborValue, ...]) -> TrustAnchor:
    only(environment, (CLASS, INSTANCE), "environment")
    implementation_id = _implementation_id(environment)
    if INSTANCE not in environment:
        malformed("environment.instance is required for a CCA platform trust anchor")
    instance_id = tagged_bytes(environment[INSTANCE], TAG_UEID, "environment.instance", "ueid")
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
    config: tuple[bytes, bytes] | None = None
    for mkey, mval in _measurements(measurements):
        if mkey == COMPONENT_KEY:
            components.append(_component(mval))
        elif mkey == CONFIG_KEY and config is None:
            config = _config(mval)
        elif mkey == CONFIG_KEY:
            malformed("cca.platform-config stands twice")
        else:
            malformed(f"invalid mkey {mkey[:60]!r} for CCA Platform profile", expected=f"{COMPONENT_KEY} or {CONFIG_KEY}")
    if not components:
        malformed("platform reference values need at least one cca.software-component")
    return PlatformReference(implementation_id, tuple(components), *(config or (None, None)))


def _realm(environment: CborMap, measurements: tuple[CborValue, ...]) -> RealmReference:
    rim = _class_id(environment, "Realm", "RIM", ())
    only(environment, (CLASS,), "environment of realm reference values")
    digests: dict[str, bytes] = {}
    rpv: bytes | None = None
    for mkey, mval in _measurements(measurements):
        if mkey in digests or (mkey == RPV_KEY and rpv is not None):
            malformed(f"{mkey} stands twice")
        if mkey == RPV_KEY:
            rpv = _raw_value(mval, RPV_KEY)
            only(mval, (RAW_VALUE,), RPV_KEY)
        elif mkey == RIM_KEY or mkey in REM_KEYS:
            digests[mkey] = _digest(mval)
            only(mval, (DIGESTS,), mkey)
        else:
            malformed(f"invalid mkey {mkey[:60]!r} for CCA Realm profile")
    if RIM_KEY not in digests:
        malformed("RIM (cca.rim) measurement is mandatory but not found")
    if digests.pop(RIM_KEY) != rim:
        malformed("the cca.rim digest is not the RIM of environment.class")
    try:
        return RealmReference(rim, {REM_KEYS[name]: value for name, value in digests.items()}, rpv)
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
    signer = tagged_bytes(signers[0], TAG_BYTES, "the signer id in cryptokeys", "bytes")
    name, version = mval.get(NAME), mval.get(VERSION)
    if name is not None and not isinstance(name, str):
        malformed("the name of a software component is not text")
    only(mval, (VERSION, DIGESTS, NAME, CRYPTOKEYS), COMPONENT_KEY)
    try:
        return ReferenceComponent(digest, signer, name, _version(version))
    except ValueError as error:
        malformed(f"{COMPONENT_KEY}: {error}")


def _version(value: CborValue) -> str | None:
    if value is None:
        return None
    text = as_map(value, "version").get(0)
    return text if isinstance(text, str) else malformed("the version of a software component is not text")


def _config(mval: CborMap) -> tuple[bytes, bytes]:
    """Read the platform configuration. Its mask must be there, as Veraison demands, and is not applied, as Veraison does."""
    value = _raw_value(mval, CONFIG_KEY)
    mask = mval.get(RAW_VALUE_MASK)
    if not isinstance(mask, bytes) or len(mask) != len(value):
        malformed("raw-value-mask of cca.platform-config is mandatory and as long as the value")
    only(mval, (RAW_VALUE, RAW_VALUE_MASK), CONFIG_KEY)
    return value, mask


def _raw_value(mval: CborMap, what: str) -> bytes:
    if RAW_VALUE not in mval:
        malformed(f"raw-value is mandatory for {what}")
    return tagged_bytes(mval[RAW_VALUE], TAG_BYTES, f"raw-value of {what}", "bytes")


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
