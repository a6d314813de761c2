"""CoRIM in CBOR for Arm CCA, unsigned (tag 501) and signed (COSE_Sign1), as verifiers.md 3.3 describes them.

A signed CoRIM is read only if its chain leads to a root that the caller trusts; an unsigned one is worth what its file is
worth. System certificate authorities never count (they do for Veraison).
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import NoReturn

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.x509 import BasicConstraints, Certificate, KeyUsage, load_der_x509_certificate
from cryptography.x509.verification import Criticality, ExtensionPolicy, Policy, PolicyBuilder, Store, VerificationError

from kbs_rim.appraisal.comid import Profile, as_array, as_map, malformed, only, read_comid
from kbs_rim.appraisal.endorsements import Endorsements
from kbs_rim.errors import InvalidDocument, MalformedEvidence
from kbs_rim.evidence import cose, strict_cbor
from kbs_rim.evidence.strict_cbor import CborMap, CborValue, Tagged
from kbs_rim.limits import DEFAULT_LIMITS, Limits

_TAG_CORIM, _TAG_COMID, _TAG_URI, _TAG_EPOCH = 501, 506, 32, 1
_CORIM_TAGS = frozenset({1, 32, 37, 111, 505, 506, 508, *range(550, 565), 600, 601, 602})
"""Tags that may stand inside; most of them only so that the refusal can say what is wrong with them."""
_ID, _TAGS, _DEPENDENT, _PROFILE, _VALIDITY, _ENTITIES = range(6)
_CORIM_META = 8
_CONTENT_TYPE = "application/rim+cbor"
_CORIM_LIMITS = replace(DEFAULT_LIMITS, cbor_depth=24, cbor_items=100_000)
_MAX_CHAIN = 8
_MAX_SECONDS = 253402300799
"""9999-12-31T23:59:59Z: beyond, a time is not a date any more."""


def parse_corim(data: bytes, *, roots: Sequence[Certificate] = (), at: int, limits: Limits = DEFAULT_LIMITS) -> Endorsements:
    """Read a CoRIM. ``roots`` may end the chain of a signed one, judged at ``at`` (seconds since the epoch).

    Raises ``InvalidDocument("endorsement.malformed" | "endorsement.profile" | "endorsement.signature" |
    "endorsement.validity")``. The CoRIM's own validity is returned, not judged.
    """
    if len(data) > limits.endorsement_bytes:
        malformed("the CoRIM is too large", expected=f"at most {limits.endorsement_bytes} bytes", seen=f"{len(data)} bytes")
    try:
        tag = strict_cbor.leading_tag(data)
        if tag == cose.SIGN1_TAG:
            data = _verified_payload(data, roots, at)
            tag = strict_cbor.leading_tag(data)
        if tag != _TAG_CORIM:
            malformed("not a CoRIM", expected="CBOR tag 501, or 18 if signed", seen=f"tag {tag}" if tag is not None else "no tag")
        return _read_corim(_decode(data, "CoRIM", outer_tag=True))
    except MalformedEvidence as error:
        malformed(f"malformed CBOR: {error}")


def _decode(data: bytes, what: str, *, outer_tag: bool = False) -> CborValue:
    return strict_cbor.decode(data, limits=_CORIM_LIMITS, allowed_tags=_CORIM_TAGS, outer_tag=outer_tag, what=what)


def _read_corim(value: CborValue) -> Endorsements:
    corim = as_map(value.value if isinstance(value, Tagged) else None, "the CoRIM")
    only(corim, range(6), "the CoRIM")
    identity = corim.get(_ID)
    if not (isinstance(identity, str) and identity) and not (isinstance(identity, bytes) and len(identity) == 16):
        malformed("the corim-id is neither text nor a UUID")
    profile = _profile(corim)
    not_before, not_after = _validity(corim.get(_VALIDITY))
    parts = [_read_tag(item, profile) for item in as_array(corim.get(_TAGS), "the CoRIM's list of tags")]
    return Endorsements(
        trust_anchors=tuple(anchor for part in parts for anchor in part.trust_anchors),
        platforms=tuple(platform for part in parts for platform in part.platforms),
        realms=tuple(realm for part in parts for realm in part.realms),
        not_before=not_before,
        not_after=not_after,
    )


def _read_tag(item: CborValue, profile: Profile) -> Endorsements:
    if not isinstance(item, Tagged) or item.number != _TAG_COMID or not isinstance(item.value, bytes):
        malformed("the CoRIM holds something other than a CoMID")
    return read_comid(as_map(_decode(item.value, "CoMID"), "the CoMID"), profile)


def _profile(corim: CborMap) -> Profile:
    value = corim.get(_PROFILE)
    if isinstance(value, Tagged) and value.number == _TAG_URI:
        value = value.value  # Veraison's releases up to v0.0.2608 write the bare text, later ones the tag
    known = {profile.value: profile for profile in Profile}
    if not isinstance(value, str) or value not in known:
        seen = value[:80] if isinstance(value, str) else "none"
        raise InvalidDocument("endorsement.profile", "the CoRIM has no Arm CCA profile", expected=", ".join(known), seen=ascii(seen))
    return known[value]


def _validity(value: CborValue) -> tuple[int | None, int | None]:
    if value is None:
        return None, None
    members = as_map(value, "the validity")
    only(members, (0, 1), "the validity")
    not_before = _time(members[0]) if 0 in members else None
    return not_before, _time(members.get(1))


def _time(value: CborValue) -> int:
    if not isinstance(value, Tagged) or value.number != _TAG_EPOCH or type(value.value) is not int:
        malformed("a time is not an integer of seconds with tag 1")
    seconds: int = value.value
    return seconds if 0 <= seconds <= _MAX_SECONDS else malformed("a time is out of range")


# --- signed CoRIM -----------------------------------------------------------------------------------------------------


def _unsigned(message: str) -> NoReturn:
    raise InvalidDocument("endorsement.signature", message)


def _verified_payload(data: bytes, roots: Sequence[Certificate], at: int) -> bytes:
    """Return the payload of a signed CoRIM whose signer's chain leads to one of ``roots``."""
    if not roots:
        _unsigned("the CoRIM is signed, but no root certificate was given to check it with")
    sign1 = cose.parse_sign1(data, limits=_CORIM_LIMITS, what="signed CoRIM")
    algorithm = cose.algorithm_of(sign1)
    if algorithm not in cose.ALGORITHMS:
        _unsigned("the CoRIM is signed with an algorithm other than ES256, ES384 and ES512")
    if sign1.protected.get(cose.CONTENT_TYPE) != _CONTENT_TYPE:
        malformed("the signed CoRIM has another content type", expected=_CONTENT_TYPE)
    key = _signer(sign1.protected.get(cose.X5CHAIN), roots, at)
    if not cose.verify_sign1(sign1, key, algorithm):
        _unsigned("the CoRIM's signature does not verify under its signing certificate")
    _judge_meta(sign1.protected.get(_CORIM_META), at)
    return sign1.payload


def _signer(chain: CborValue, roots: Sequence[Certificate], at: int) -> EllipticCurvePublicKey:
    encoded = (chain,) if isinstance(chain, bytes) else chain
    if not isinstance(encoded, tuple) or not 1 <= len(encoded) <= _MAX_CHAIN or not all(isinstance(item, bytes) for item in encoded):
        _unsigned("no signing certificate found in the CoRIM's protected header")
    try:
        leaf, *others = (load_der_x509_certificate(item) for item in encoded if isinstance(item, bytes))
    except ValueError:
        _unsigned("a certificate in the CoRIM is malformed")
    try:
        _chain_verifier(roots, at, leaf, others)
        key = leaf.public_key()
    except (VerificationError, ValueError, UnsupportedAlgorithm):
        _unsigned("the CoRIM's signing certificate does not lead to a given root")
    return key if isinstance(key, EllipticCurvePublicKey) else _unsigned("the CoRIM's signing certificate has no EC key")


def _chain_verifier(roots: Sequence[Certificate], at: int, leaf: Certificate, others: list[Certificate]) -> None:
    """RFC 5280 path validation, without the web's rules on names and extended key usage: a CoRIM signer is no server."""
    authority = ExtensionPolicy.permit_all().require_present(BasicConstraints, Criticality.AGNOSTIC, None)
    authority = authority.may_be_present(KeyUsage, Criticality.AGNOSTIC, _may_sign_certificates)
    builder = PolicyBuilder().store(Store(list(roots))).time(datetime.fromtimestamp(at, UTC).replace(tzinfo=None))
    builder = builder.extension_policies(ca_policy=authority, ee_policy=ExtensionPolicy.permit_all())
    builder.build_client_verifier().verify(leaf, others)


def _may_sign_certificates(policy: Policy, certificate: Certificate, usage: KeyUsage | None) -> None:
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("not a certificate that may sign certificates")


def _judge_meta(meta: CborValue, at: int) -> None:
    """The signature's own validity, which Veraison does not look at."""
    if not isinstance(meta, bytes):
        malformed("the signed CoRIM has no corim-meta")
    members = as_map(_decode(meta, "corim-meta"), "corim-meta")
    not_before, not_after = _validity(members.get(1))
    if not Endorsements(not_before=not_before, not_after=not_after).valid_at(at):
        raise InvalidDocument("endorsement.validity", "the CoRIM's signature is outside its validity")
