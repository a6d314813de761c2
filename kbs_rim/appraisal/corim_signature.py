"""The signature of a CoRIM (COSE_Sign1, draft-ietf-rats-corim 4.2): read, verified by named keys or by a chain, and made.

The signing certificate is the first of ``x5chain`` in the *protected* header, where Veraison wants it. System certificate authorities
never count (they do for Veraison): a root or a key must be given. Signing is RFC 6979's deterministic ECDSA, so that the same content
and key give the same file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import NoReturn

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import BasicConstraints, Certificate, InvalidVersion, KeyUsage, load_der_x509_certificate
from cryptography.x509.verification import Criticality, ExtensionPolicy, Policy, PolicyBuilder, Store, VerificationError

from kbs_rim.appraisal.comid_shape import TAG_EPOCH, TAG_URI, as_map, malformed
from kbs_rim.appraisal.corim_document import check_text, check_validity
from kbs_rim.errors import InvalidDocument
from kbs_rim.evidence import cose, strict_cbor
from kbs_rim.evidence.cose import Sign1
from kbs_rim.evidence.strict_cbor import CborMap, CborValue, Tagged
from kbs_rim.limits import Limits

CORIM_META = 8
"""Header parameter label of corim-meta."""
CONTENT_TYPE = "application/rim+cbor"
_MAX_CHAIN = 8
_MAX_KID = 256


@dataclass(frozen=True, slots=True)
class CorimSignature:
    """What a signature says of itself; nothing of it is verified. ``chain`` is the signing certificate and its issuers."""

    sign1: Sign1
    algorithm: int
    kid: bytes | None
    chain: tuple[Certificate, ...]
    meta: bool
    signer: str | None
    signer_uri: str | None
    not_before: int | None
    not_after: int | None

    @property
    def algorithm_name(self) -> str:
        """Such as ``ES256``."""
        return cose.ALGORITHMS[self.algorithm].name


@dataclass(frozen=True, slots=True)
class SignerKey:
    """A public key that the caller trusts to sign CoRIMs, and what it is called in messages."""

    name: str
    key: EllipticCurvePublicKey


# --- reading ----------------------------------------------------------------------------------------------------------


def decode_meta(sign1: Sign1, limits: Limits) -> CborMap | None:
    """Return the corim-meta map, or None if there is none. Raises ``InvalidDocument`` and ``MalformedEvidence``."""
    meta = sign1.protected.get(CORIM_META)
    if meta is None:
        return None
    if not isinstance(meta, bytes):
        malformed("corim-meta is not a byte string")
    tags = frozenset({TAG_EPOCH, TAG_URI})
    return as_map(strict_cbor.decode(meta, limits=limits, allowed_tags=tags, what="corim-meta"), "corim-meta")


def read_signature(sign1: Sign1, meta: CborMap | None, not_before: int | None, not_after: int | None) -> CorimSignature:
    """Read the protected header. Raises ``InvalidDocument("endorsement.signature" | "endorsement.malformed")``."""
    algorithm = cose.algorithm_of(sign1)
    if algorithm not in cose.ALGORITHMS:
        _refuse("the CoRIM is signed with an algorithm other than ES256, ES384 and ES512")
    if sign1.protected.get(cose.CONTENT_TYPE) != CONTENT_TYPE:
        malformed("the signed CoRIM has another content type", expected=CONTENT_TYPE)
    kid = sign1.protected.get(cose.KID)
    signer, uri = _signer_of(meta)
    return CorimSignature(
        sign1,
        algorithm,
        kid if isinstance(kid, bytes) else None,
        _chain(sign1.protected.get(cose.X5CHAIN)),
        meta is not None,
        signer,
        uri,
        not_before,
        not_after,
    )


def _signer_of(meta: CborMap | None) -> tuple[str | None, str | None]:
    members = meta.get(0) if meta else None
    if members is None:
        return None, None
    found = as_map(members, "the signer in corim-meta")
    name, uri = found.get(0), found.get(1)
    content = uri.value if isinstance(uri, Tagged) and uri.number == TAG_URI else uri
    if not isinstance(name, str) or not (content is None or isinstance(content, str)):
        malformed("the signer's name or URI in corim-meta is not text")
    return name, content


def _chain(value: CborValue) -> tuple[Certificate, ...]:
    if value is None:
        return ()
    encoded = (value,) if isinstance(value, bytes) else value
    if not isinstance(encoded, tuple) or not 1 <= len(encoded) <= _MAX_CHAIN or not all(isinstance(item, bytes) for item in encoded):
        _refuse(f"x5chain in the CoRIM's protected header is not 1 to {_MAX_CHAIN} certificates")
    try:
        chain = tuple(load_der_x509_certificate(item) for item in encoded if isinstance(item, bytes))
        for certificate in chain:
            certificate.subject.rfc4514_string()  # parsed when it is asked for, and asked for by everybody who shows it
    except (ValueError, InvalidVersion, UnsupportedAlgorithm):
        _refuse("a certificate in the CoRIM is malformed")
    return chain


def _refuse(message: str) -> NoReturn:
    raise InvalidDocument("endorsement.signature", message)


# --- verifying --------------------------------------------------------------------------------------------------------


def verify_signature(signature: CorimSignature, *, roots: Sequence[Certificate] = (), keys: Sequence[SignerKey] = (), at: int) -> str:
    """Verify by one of ``keys``, or by a chain to one of ``roots``; return the name of the key, or of the signing certificate.

    With both, either is enough. Raises ``InvalidDocument("endorsement.signature" | "endorsement.validity" |
    "endorsement.malformed")``, the second if ``at`` is outside what corim-meta says, which Veraison does not look at.
    """
    if not roots and not keys:
        _refuse("the CoRIM is signed, but no root certificate or key was given to check it with")
    name = next((held.name for held in keys if cose.verify_sign1(signature.sign1, held.key, signature.algorithm)), None)
    if name is None and not roots:
        _refuse("the CoRIM's signature does not verify under a given key")
    if name is None:
        if not cose.verify_sign1(signature.sign1, _chained_key(signature, roots, at), signature.algorithm):
            _refuse("the CoRIM's signature does not verify under its signing certificate")
        name = signature.chain[0].subject.rfc4514_string()
    if not signature.meta:
        malformed("the signed CoRIM has no corim-meta")
    after, before = signature.not_before, signature.not_after
    if (after is not None and at < after) or (before is not None and before < at):
        raise InvalidDocument("endorsement.validity", "the CoRIM's signature is outside its validity")
    return name


def _chained_key(signature: CorimSignature, roots: Sequence[Certificate], at: int) -> EllipticCurvePublicKey:
    if not signature.chain:
        _refuse("no signing certificate found in the CoRIM's protected header")
    leaf, *others = signature.chain
    try:
        _chain_verifier(roots, at, leaf, others)
        key = leaf.public_key()
    except (VerificationError, ValueError, UnsupportedAlgorithm):
        _refuse("the CoRIM's signing certificate does not lead to a given root")
    return key if isinstance(key, EllipticCurvePublicKey) else _refuse("the CoRIM's signing certificate has no EC key")


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


# --- signing ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """Who signs, and with what. ``chain`` is the certificate of ``key`` and its issuers; without one, Veraison refuses the file.

    Raises ``ValueError`` for a key that no algorithm fits, or a certificate that is another key's.
    """

    key: EllipticCurvePrivateKey
    name: str
    uri: str | None = None
    chain: tuple[Certificate, ...] = ()
    kid: bytes | None = None
    not_before: int | None = None
    not_after: int | None = None

    def __post_init__(self) -> None:
        check_text(self.name, "the signer's name")
        if self.uri is not None:
            check_text(self.uri, "the signer's URI")
        check_validity(self.not_before, self.not_after)
        if self.kid is not None and not 1 <= len(self.kid) <= _MAX_KID:
            raise ValueError(f"a key id has 1 to {_MAX_KID} bytes")
        if len(self.chain) > _MAX_CHAIN:
            raise ValueError(f"a chain has at most {_MAX_CHAIN} certificates")
        if self.chain and self.chain[0].public_key() != self.key.public_key():
            raise ValueError("the first certificate of the chain is not the signing key's")
        for certificate, issuer in pairwise(self.chain):
            _demand_issuer(certificate, issuer)
        self.algorithm  # noqa: B018 - refuses a curve that has none

    @property
    def algorithm(self) -> int:
        """The COSE algorithm that belongs to the key's curve."""
        for number, parameters in cose.ALGORITHMS.items():
            if parameters.curve.name == self.key.curve.name:
                return number
        raise ValueError(f"no COSE algorithm for {self.key.curve.name}: use a key on P-256, P-384 or P-521")


def _demand_issuer(certificate: Certificate, issuer: Certificate) -> None:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        names = (certificate.subject.rfc4514_string(), issuer.subject.rfc4514_string())
        raise ValueError("{} is not signed by {}: give the key's certificate first, then its issuers in order".format(*names)) from None


def sign_corim(corim: bytes, signer: Signer) -> bytes:
    """Return the signed form of an encoded CoRIM. The same input gives the same bytes."""
    protected: CborMap = {
        cose.ALG: signer.algorithm,
        cose.CONTENT_TYPE: CONTENT_TYPE,
        CORIM_META: strict_cbor.encode(_meta(signer)),
    }
    if signer.kid is not None:
        protected[cose.KID] = signer.kid
    if signer.chain:
        encoded = tuple(certificate.public_bytes(Encoding.DER) for certificate in signer.chain)
        protected[cose.X5CHAIN] = encoded[0] if len(encoded) == 1 else encoded
    header = strict_cbor.encode(protected)
    parameters = cose.ALGORITHMS[signer.algorithm]
    to_be_signed = strict_cbor.encode(("Signature1", header, b"", corim))
    r, s = decode_dss_signature(signer.key.sign(to_be_signed, ECDSA(parameters.hash, deterministic_signing=True)))
    signature = r.to_bytes(parameters.coordinate_size, "big") + s.to_bytes(parameters.coordinate_size, "big")
    return strict_cbor.encode(Tagged(cose.SIGN1_TAG, (header, {}, corim, signature)))


def _meta(signer: Signer) -> CborMap:
    name: CborMap = {0: signer.name}
    if signer.uri is not None:
        name[1] = Tagged(TAG_URI, signer.uri)
    meta: CborMap = {0: name}
    if signer.not_after is not None:
        validity: CborMap = {1: Tagged(TAG_EPOCH, signer.not_after)}
        if signer.not_before is not None:
            validity[0] = Tagged(TAG_EPOCH, signer.not_before)
        meta[1] = validity
    return meta
