"""CoRIM and CoMID in CBOR, written in core deterministic encoding: byte for byte what Veraison's ``cocli`` makes of the same content.

Where the draft and Veraison differ, this follows Veraison, which the readers of the files are: the profile has its URI tag, digest
algorithms are numbers, the platform configuration has a mask.
"""

from hashlib import sha256
from uuid import UUID

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kbs_rim.appraisal.comid_shape import (
    ATTEST_KEY_TRIPLES,
    CLASS,
    CLASS_ID,
    COMID_ENTITIES,
    COMID_IDENTITY,
    COMID_LANGUAGE,
    COMID_TRIPLES,
    COMPONENT_KEY,
    CONFIG_KEY,
    CORIM_ENTITIES,
    CORIM_ID,
    CORIM_PROFILE,
    CORIM_TAGS,
    CORIM_VALIDITY,
    CRYPTOKEYS,
    DIGESTS,
    ENTITY_NAME,
    ENTITY_ROLES,
    ENTITY_URI,
    INSTANCE,
    MKEY,
    MVAL,
    NAME,
    RAW_VALUE,
    RAW_VALUE_MASK,
    REFERENCE_TRIPLES,
    RIM_KEY,
    RPV_KEY,
    TAG_BYTES,
    TAG_COMID,
    TAG_CORIM,
    TAG_EPOCH,
    TAG_PKIX_KEY,
    TAG_UEID,
    TAG_URI,
)
from kbs_rim.appraisal.corim_document import Comid, Corim, Entity, Profile, TagId, check_validity
from kbs_rim.appraisal.endorsements import PlatformReference, RealmReference, ReferenceComponent, TrustAnchor
from kbs_rim.appraisal.image_comid import image_triple, plan_triple
from kbs_rim.errors import InvalidDocument
from kbs_rim.evidence import strict_cbor
from kbs_rim.evidence.strict_cbor import CborMap, CborValue, Tagged

DIGEST_ALGORITHMS = {32: 1, 48: 7, 64: 8}
"""IANA Named Information numbers of SHA-256, SHA-384 and SHA-512, by the length of their digests."""
_NIL = UUID(int=0)


def encode_corim(corim: Corim) -> bytes:
    """Return the unsigned CoRIM.

    Raises ``InvalidDocument("endorsement.unwritable")`` for content that its profile has no place for, or that would crash Veraison.
    """
    try:
        check_validity(corim.not_before, corim.not_after)
    except ValueError as error:
        raise _unwritable(str(error)) from None
    if corim.dependents:
        raise _unwritable("a CoRIM that points to others is not written here")
    members: CborMap = {
        CORIM_ID: _id(corim.id),
        CORIM_TAGS: tuple(Tagged(TAG_COMID, encode_comid(comid, corim.profile)) for comid in corim.comids),
        CORIM_PROFILE: Tagged(TAG_URI, corim.profile.value),
    }
    if corim.not_after is not None:
        validity: CborMap = {1: Tagged(TAG_EPOCH, corim.not_after)}
        if corim.not_before is not None:
            validity[0] = Tagged(TAG_EPOCH, corim.not_before)
        members[CORIM_VALIDITY] = validity
    if corim.entities:
        members[CORIM_ENTITIES] = _entities(corim.entities)
    return strict_cbor.encode(Tagged(TAG_CORIM, members))


def encode_comid(comid: Comid, profile: Profile) -> bytes:
    """Return one CoMID under ``profile``; errors as for ``encode_corim``."""
    identity: CborMap = {0: _id(comid.tag_id)}
    if comid.version:
        identity[1] = comid.version
    members: CborMap = {COMID_IDENTITY: identity, COMID_TRIPLES: _triples(comid, profile)}
    if comid.language is not None:
        members[COMID_LANGUAGE] = comid.language
    if comid.entities:
        members[COMID_ENTITIES] = _entities(comid.entities)
    return strict_cbor.encode(members)


def content_id(corim: Corim) -> UUID:
    """Return an id that follows from the content: a UUID of version 8 (RFC 9562) made of the SHA-256 of the CoRIM with a nil id.

    Veraison refuses an id that it has seen. With this one the same content is the same CoRIM, and any change is another.
    """
    bare = Corim(
        id=_NIL,
        profile=corim.profile,
        comids=corim.comids,
        entities=corim.entities,
        not_before=corim.not_before,
        not_after=corim.not_after,
    )
    return uuid_of(encode_corim(bare))


def uuid_of(content: bytes) -> UUID:
    """Return the UUID of version 8 that is made of the SHA-256 of ``content``."""
    value = bytearray(sha256(content).digest()[:16])
    value[6] = value[6] & 0x0F | 0x80
    value[8] = value[8] & 0x3F | 0x80
    return UUID(bytes=bytes(value))


def public_key_pem(anchor: TrustAnchor) -> str:
    """Return a trust anchor's key as SPKI PEM, without a newline at the end, as the samples have it."""
    return anchor.key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode("ascii").rstrip("\n")


def digest_entry(digest: bytes) -> tuple[CborValue, ...]:
    """Return a list of one digest."""
    return ((DIGEST_ALGORITHMS[len(digest)], digest),)


def _unwritable(message: str) -> InvalidDocument:
    return InvalidDocument("endorsement.unwritable", message)


def _id(value: TagId) -> CborValue:
    return value.bytes if isinstance(value, UUID) else value


def _entities(entities: tuple[Entity, ...]) -> CborValue:
    encoded: list[CborValue] = []
    for entity in entities:
        members: CborMap = {ENTITY_NAME: entity.name, ENTITY_ROLES: entity.roles}
        if entity.uri is not None:
            members[ENTITY_URI] = Tagged(TAG_URI, entity.uri)
        encoded.append(members)
    return tuple(encoded)


def _triples(comid: Comid, profile: Profile) -> CborMap:
    content = comid.endorsements
    platform, realm, image = content.platforms or content.trust_anchors, content.realms, comid.images or comid.plans
    held = [name for name, part in zip(Profile, (platform, realm, image), strict=True) if part]
    if held != [profile]:
        names = " and ".join(part.name.lower() for part in held) or "nothing"
        raise _unwritable(f"a CoMID of {names} does not fit the profile for {profile.name.lower()}s")
    references = (
        *(_platform_triple(reference) for reference in content.platforms),
        *(_realm_triple(reference) for reference in realm),
        *(image_triple(reference) for reference in comid.images),
        *(plan_triple(plan) for plan in comid.plans),
    )
    triples: CborMap = {}
    if references:
        triples[REFERENCE_TRIPLES] = references
    if content.trust_anchors:
        triples[ATTEST_KEY_TRIPLES] = tuple(_anchor_triple(anchor) for anchor in content.trust_anchors)
    return triples


def _class(identity: bytes) -> CborMap:
    return {CLASS: {CLASS_ID: Tagged(TAG_BYTES, identity)}}


def _anchor_triple(anchor: TrustAnchor) -> CborValue:
    environment = {**_class(anchor.implementation_id), INSTANCE: Tagged(TAG_UEID, anchor.instance_id)}
    return (environment, (Tagged(TAG_PKIX_KEY, public_key_pem(anchor)),))


def _platform_triple(reference: PlatformReference) -> CborValue:
    measurements: list[CborValue] = [{MKEY: COMPONENT_KEY, MVAL: _component(component)} for component in reference.components]
    if reference.config is not None:
        mask = reference.config_mask if reference.config_mask is not None else b"\xff" * len(reference.config)
        measurements.append({MKEY: CONFIG_KEY, MVAL: {RAW_VALUE: Tagged(TAG_BYTES, reference.config), RAW_VALUE_MASK: mask}})
    return (_class(reference.implementation_id), tuple(measurements))


def _component(component: ReferenceComponent) -> CborMap:
    if component.version is not None:
        raise _unwritable("a software component has a version, on which Veraison's profile check fails; leave it out")
    mval: CborMap = {DIGESTS: digest_entry(component.digest), CRYPTOKEYS: (Tagged(TAG_BYTES, component.signer_id),)}
    if component.measurement_type is not None:
        mval[NAME] = component.measurement_type
    return mval


def _realm_triple(reference: RealmReference) -> CborValue:
    measurements: list[CborValue] = [{MKEY: RIM_KEY, MVAL: {DIGESTS: digest_entry(reference.rim)}}]
    measurements += [{MKEY: f"cca.rem{number}", MVAL: {DIGESTS: digest_entry(value)}} for number, value in sorted(reference.rems.items())]
    if reference.rpv is not None:
        measurements.append({MKEY: RPV_KEY, MVAL: {RAW_VALUE: Tagged(TAG_BYTES, reference.rpv)}})
    return (_class(reference.rim), tuple(measurements))
