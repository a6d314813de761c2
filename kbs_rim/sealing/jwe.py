"""Seal a secret to a guest's key, and open it on the guest's side.

JWE (RFC 7516) in compact form with A256GCM. Both sides name the algorithms that they allow and leave nothing to defaults
or to the other side's header. For old clients there is the bare RSA ciphertext as well (``GuestKey.algorithm.form``).

This room is pure but for one thing: sealing draws ephemeral keys, content keys, IVs and padding from the CSPRNG of the
crypto library. No caller may supply that entropy, since repeating it would give the secret away.
"""

from dataclasses import dataclass, field
from typing import Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, x25519
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap
from joserfc import jwe
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey

from kbs_rim.errors import MalformedEvidence, RefusedKey, UnopenableSecret
from kbs_rim.evidence import base64url, strict_json
from kbs_rim.limits import DEFAULT_LIMITS
from kbs_rim.sealing.guest_key import GuestKey, PublicKey, SealingAlgorithm, guest_key_of

PrivateKey = ec.EllipticCurvePrivateKey | x25519.X25519PrivateKey | rsa.RSAPrivateKey

CONTENT_ENCRYPTION = "A256GCM"

_SEGMENTS = 5
_MAX_HEADER = 1024  # characters; ours have about 330
_MAX_ENCRYPTED_KEY = 1366  # characters; RSA 8192
_PKCS1_OVERHEAD = 11  # bytes, RFC 8017 section 7.2.1
_OAEP_SHA1_OVERHEAD = 2 * 20 + 2  # bytes, RFC 8017 section 7.1.1
_HEADER_MEMBERS = {"alg", "enc", "kid", "epk"}


@dataclass(frozen=True, slots=True)
class SealedSecret:
    """``value`` is a compact JWE, or for form ``raw`` the RSA ciphertext in base64url without padding."""

    form: Literal["jwe", "raw"]
    value: str = field(repr=False)


def seal(key: GuestKey, plaintext: bytes) -> SealedSecret:
    """Seal ``plaintext`` so that only the holder of the guest's private key opens it.

    ``RSA-OAEP`` means what RFC 7518 section 4.3 says, OAEP with SHA-1 for the hash and for MGF1, applied to the secret
    itself: the answer of keybroker-demo's protocol with a better padding. ``RSA1_5`` is that protocol's own padding.

    Raises ``RefusedKey("key.capacity")`` if plain RSA cannot carry a secret of this length.
    """
    if key.algorithm.form == "jwe":
        return SealedSecret("jwe", _seal_jwe(key, plaintext))
    return SealedSecret("raw", base64url.encode(_seal_raw(key, plaintext)))


def open_jwe(private_key: PrivateKey, token: str, *, max_bytes: int = DEFAULT_LIMITS.secret_bytes) -> bytes:
    """Open what ``seal`` made for the public half of ``private_key``; used by the guest.

    The algorithm follows from the key, never from the header; the header must name this key and this algorithm.
    ``max_bytes`` bounds the secret. Raises ``UnopenableSecret("answer.unopenable")``.
    """
    own = guest_key_of(private_key.public_key())
    _check_token(own, token, max_bytes)
    algorithms = [own.algorithm.value, CONTENT_ENCRYPTION]
    registry = _Registry(max_bytes, algorithms)
    try:
        plaintext = jwe.decrypt_compact(token, _jose_key(private_key), registry=registry).plaintext
    except (JoseError, InvalidTag, InvalidUnwrap, ValueError, TypeError, KeyError):
        raise _unopenable("it does not open under this key") from None
    if plaintext is None:
        raise _unopenable("it holds nothing")
    return plaintext


class _Registry(jwe.JWERegistry):
    """joserfc's own limits are too narrow for RSA 8192, and for the largest secret."""

    max_protected_header_length = _MAX_HEADER
    max_encrypted_key_length = _MAX_ENCRYPTED_KEY

    def __init__(self, max_bytes: int, algorithms: list[str]) -> None:
        super().__init__(algorithms=algorithms)
        self.max_ciphertext_length = _characters(max_bytes)


def _characters(octets: int) -> int:
    """Length of base64url without padding."""
    return (8 * octets + 5) // 6


def _seal_jwe(key: GuestKey, plaintext: bytes) -> str:
    header = {"alg": key.algorithm.value, "enc": CONTENT_ENCRYPTION, "kid": key.kid}
    return jwe.encrypt_compact(header, plaintext, _jose_key(key.public_key), algorithms=[key.algorithm.value, CONTENT_ENCRYPTION])


def _seal_raw(key: GuestKey, plaintext: bytes) -> bytes:
    if not isinstance(key.public_key, rsa.RSAPublicKey):
        raise RefusedKey("key.type", "only RSA seals without an envelope")
    legacy = key.algorithm is SealingAlgorithm.RSA1_5
    capacity = (key.public_key.key_size + 7) // 8 - (_PKCS1_OVERHEAD if legacy else _OAEP_SHA1_OVERHEAD)
    if len(plaintext) > capacity:
        raise RefusedKey("key.capacity", "the secret is too long for plain RSA under this key", expected=f"at most {capacity} bytes")
    return key.public_key.encrypt(plaintext, _padding(legacy))


def _padding(legacy: bool) -> padding.AsymmetricPadding:
    if legacy:
        return padding.PKCS1v15()
    # SHA-1 is what the name RSA-OAEP means; OAEP does not need a collision resistant hash.
    sha1 = hashes.SHA1()  # noqa: S303
    return padding.OAEP(mgf=padding.MGF1(sha1), algorithm=sha1, label=None)


def _jose_key(key: PublicKey | PrivateKey) -> ECKey | OKPKey | RSAKey:
    if isinstance(key, rsa.RSAPublicKey | rsa.RSAPrivateKey):
        return RSAKey.import_key(key)
    if isinstance(key, x25519.X25519PublicKey | x25519.X25519PrivateKey):
        return OKPKey.import_key(key)
    return ECKey.import_key(key)


def _check_token(own: GuestKey, token: str, max_bytes: int) -> None:
    """Structure and header, before any cryptography."""
    segments = token.split(".", _SEGMENTS)
    if len(segments) != _SEGMENTS:
        raise _unopenable("it is not a compact JWE")
    if len(segments[0]) > _MAX_HEADER or len(segments[1]) > _MAX_ENCRYPTED_KEY or len(segments[3]) > _characters(max_bytes):
        raise _unopenable("it is too large")
    try:
        header = strict_json.decode_object(base64url.decode(segments[0], what="the header"), what="the header", max_bytes=_MAX_HEADER)
        for segment in segments[1:]:
            base64url.decode(segment, what="a segment")
    except MalformedEvidence as error:
        raise _unopenable(error.message) from None
    if set(header) - _HEADER_MEMBERS:
        raise _unopenable("its header has a member that we do not know")
    if header.get("alg") != own.algorithm.value or header.get("enc") != CONTENT_ENCRYPTION:
        raise _unopenable("it is sealed with another algorithm than was asked for")
    if header.get("kid", own.kid) != own.kid:
        raise _unopenable("it is sealed to another key")


def _unopenable(reason: str) -> UnopenableSecret:
    return UnopenableSecret("answer.unopenable", f"the sealed secret cannot be opened: {reason}")
