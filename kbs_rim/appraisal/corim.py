"""CoRIM in CBOR (draft-ietf-rats-corim): unsigned (tag 501) and signed (COSE_Sign1), for Arm CCA and for images.

Reading and trusting are two things here. ``read_corim`` says what stands in a file, signed or not, and vouches for nothing;
``parse_corim``, what the verifier uses, returns reference values only from a file that is unsigned (worth what its source is worth) or
whose signature leads to a root that the caller trusts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

from cryptography.x509 import Certificate

from kbs_rim.appraisal.comid import read_comid, read_entities, read_tag_id
from kbs_rim.appraisal.comid_shape import (
    CORIM_DEPENDENT,
    CORIM_ENTITIES,
    CORIM_ID,
    CORIM_PROFILE,
    CORIM_TAGS,
    CORIM_VALIDITY,
    TAG_COMID,
    TAG_CORIM,
    TAG_EPOCH,
    TAG_URI,
    as_array,
    as_map,
    malformed,
    only,
)
from kbs_rim.appraisal.corim_document import MAX_SECONDS, Comid, Corim, Profile
from kbs_rim.appraisal.corim_signature import CorimSignature, SignerKey, decode_meta, read_signature, verify_signature
from kbs_rim.appraisal.endorsements import Endorsements
from kbs_rim.errors import InvalidDocument, MalformedEvidence
from kbs_rim.evidence import cose, strict_cbor
from kbs_rim.evidence.strict_cbor import CborMap, CborValue, Tagged
from kbs_rim.limits import DEFAULT_LIMITS, Limits

_CORIM_TAGS = frozenset({1, 32, 37, 111, 505, 506, 508, *range(550, 565), 600, 601, 602})
"""Tags that may stand inside; most of them only so that the refusal can say what is wrong with them."""
_CORIM_LIMITS = replace(DEFAULT_LIMITS, cbor_depth=24, cbor_items=100_000)
_ENDORSEMENT_PROFILES = (Profile.PLATFORM, Profile.REALM)


@dataclass(frozen=True, slots=True)
class CorimFile:
    """What a file holds. ``signature`` None: it is unsigned; else it was read, and *not* verified.

    ``payload`` is the unsigned CoRIM inside, byte for byte. ``verified_by`` is the key or certificate that the signature was verified
    with, None if nobody did.
    """

    corim: Corim
    payload: bytes
    signature: CorimSignature | None = None
    verified_by: str | None = None


def read_corim(data: bytes, *, limits: Limits = DEFAULT_LIMITS, max_bytes: int | None = None) -> CorimFile:
    """Read a CoRIM of any profile, signed or not, without verifying anything.

    ``max_bytes`` is for files of images, which are large (default: ``limits.endorsement_bytes``). Raises
    ``InvalidDocument("endorsement.malformed" | "endorsement.profile" | "endorsement.signature")``.
    """
    return _read(*_opened(data, limits.endorsement_bytes if max_bytes is None else max_bytes), limits)


def verify_corim(
    data: bytes,
    *,
    roots: Sequence[Certificate] = (),
    keys: Sequence[SignerKey] = (),
    at: int,
    limits: Limits = DEFAULT_LIMITS,
    max_bytes: int | None = None,
) -> CorimFile:
    """Read a signed CoRIM whose signature one of ``keys`` made, or a certificate that leads to one of ``roots`` (see ``corim_signature``).

    The signature's validity holds at ``at`` (seconds since the epoch); the CoRIM's own is returned, not judged. An unsigned file is
    refused, and nothing of the content is read before the signature is verified. Raises ``InvalidDocument("endorsement.*")``.
    """
    payload, signature = _opened(data, limits.endorsement_bytes if max_bytes is None else max_bytes)
    if signature is None:
        raise InvalidDocument("endorsement.signature", "the CoRIM is not signed")
    name = _verified(signature, roots, keys, at)
    return replace(_read(payload, signature, limits), verified_by=name)


def parse_corim(data: bytes, *, roots: Sequence[Certificate] = (), at: int, limits: Limits = DEFAULT_LIMITS) -> Endorsements:
    """Read a CoRIM for a verifier. ``roots`` may end the chain of a signed one, judged at ``at`` (seconds since the epoch).

    Raises ``InvalidDocument("endorsement.malformed" | "endorsement.profile" | "endorsement.signature" |
    "endorsement.validity")``. The CoRIM's own validity is returned, not judged.
    """
    payload, signature = _opened(data, limits.endorsement_bytes)
    if signature is not None:
        _verified(signature, roots, (), at)
    corim = _read(payload, signature, limits).corim
    if corim.profile not in _ENDORSEMENT_PROFILES:
        _refuse_profile(ascii(corim.profile.value), "the CoRIM describes images, which no verifier asks for")
    return corim.endorsements


def _opened(data: bytes, most: int) -> tuple[bytes, CorimSignature | None]:
    """Return the unsigned CoRIM, not yet read, and the signature around it, not yet verified."""
    if len(data) > most:
        malformed("the CoRIM is too large", expected=f"at most {most} bytes", seen=f"{len(data)} bytes")
    try:
        if strict_cbor.leading_tag(data) != cose.SIGN1_TAG:
            return data, None
        sign1 = cose.parse_sign1(data, limits=_CORIM_LIMITS, what="signed CoRIM")
        meta = decode_meta(sign1, _CORIM_LIMITS)
        not_before, not_after = _validity(meta.get(1)) if meta else (None, None)
        return sign1.payload, read_signature(sign1, meta, not_before, not_after)
    except MalformedEvidence as error:
        malformed(f"malformed CBOR: {error}")


def _verified(signature: CorimSignature, roots: Sequence[Certificate], keys: Sequence[SignerKey], at: int) -> str:
    try:
        return verify_signature(signature, roots=roots, keys=keys, at=at)
    except MalformedEvidence as error:
        malformed(f"malformed signature: {error}")


def _read(data: bytes, signature: CorimSignature | None, limits: Limits) -> CorimFile:
    try:
        tag = strict_cbor.leading_tag(data)
        if tag != TAG_CORIM:
            malformed("not a CoRIM", expected="CBOR tag 501, or 18 if signed", seen=f"tag {tag}" if tag is not None else "no tag")
        return CorimFile(_read_corim(_decode(data, "CoRIM", outer_tag=True), limits), data, signature)
    except MalformedEvidence as error:
        malformed(f"malformed CBOR: {error}")


def _decode(data: bytes, what: str, *, outer_tag: bool = False, text_keys: bool = False) -> CborValue:
    return strict_cbor.decode(
        data, limits=_CORIM_LIMITS, allowed_tags=_CORIM_TAGS, outer_tag=outer_tag, allow_text_keys=text_keys, what=what
    )


def _read_corim(value: CborValue, limits: Limits) -> Corim:
    members = as_map(value.value if isinstance(value, Tagged) else None, "the CoRIM")
    only(members, range(6), "the CoRIM")
    identity = read_tag_id(members.get(CORIM_ID), "the corim-id")
    profile = _profile(members)
    not_before, not_after = _validity(members.get(CORIM_VALIDITY))
    comids = tuple(_read_tag(item, profile, limits) for item in as_array(members.get(CORIM_TAGS), "the CoRIM's list of tags"))
    dependents = as_array(members[CORIM_DEPENDENT], "the CoRIM's list of dependent CoRIMs") if CORIM_DEPENDENT in members else ()
    try:
        return Corim(
            id=identity,
            profile=profile,
            comids=comids,
            entities=read_entities(members.get(CORIM_ENTITIES)),
            not_before=not_before,
            not_after=not_after,
            dependents=len(dependents),
        )
    except ValueError as error:
        malformed(str(error))


def _read_tag(item: CborValue, profile: Profile, limits: Limits) -> Comid:
    if not isinstance(item, Tagged) or item.number != TAG_COMID or not isinstance(item.value, bytes):
        malformed("the CoRIM holds something other than a CoMID")
    # Only facts of images have names; the Arm profiles have numbers everywhere.
    comid = _decode(item.value, "CoMID", text_keys=profile is Profile.IMAGE)
    return read_comid(as_map(comid, "the CoMID"), profile, limits)


def _profile(corim: CborMap) -> Profile:
    value = corim.get(CORIM_PROFILE)
    if isinstance(value, Tagged) and value.number == TAG_URI:
        value = value.value  # Veraison's releases up to v0.0.2608 write the bare text, later ones the tag
    for profile in Profile:
        if profile.value == value:
            return profile
    seen = ascii(value[:80]) if isinstance(value, str) else "none"
    return _refuse_profile(seen, f"the CoRIM's profile is {seen}, which is not one for Arm CCA, nor ours for images")


def _refuse_profile(seen: str, message: str) -> NoReturn:
    expected = ", ".join(profile.value for profile in _ENDORSEMENT_PROFILES)
    raise InvalidDocument("endorsement.profile", message, expected=expected, seen=seen)


def _validity(value: CborValue) -> tuple[int | None, int | None]:
    if value is None:
        return None, None
    members = as_map(value, "the validity")
    only(members, (0, 1), "the validity")
    not_before = _time(members[0]) if 0 in members else None
    return not_before, _time(members.get(1))


def _time(value: CborValue) -> int:
    if not isinstance(value, Tagged) or value.number != TAG_EPOCH or type(value.value) is not int:
        malformed("a time is not an integer of seconds with tag 1")
    seconds: int = value.value
    return seconds if 0 <= seconds <= MAX_SECONDS else malformed("a time is out of range")
