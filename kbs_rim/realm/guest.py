"""The guest's side of one exchange, without the network: what it sends, and what it accepts.

The guest trusts nobody on the way: the challenge must commit to its own key (docs/security.md), the next step must be on
the broker that it asked, and the answer must open under its own key with the algorithm that it asked for.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from hmac import compare_digest
from typing import Protocol
from urllib.parse import quote, urljoin, urlsplit

from cryptography.hazmat.primitives.asymmetric import ec, rsa, x25519

from kbs_rim.errors import MalformedEvidence, UnopenableSecret
from kbs_rim.evidence import base64url, strict_json
from kbs_rim.evidence.envelope import EVIDENCE_JSON_TYPE, Evidence, encode_evidence_json
from kbs_rim.limits import DEFAULT_LIMITS
from kbs_rim.realm.failures import BrokerNotTrusted, BrokerRefused
from kbs_rim.sealing.guest_key import SALT_BYTES, GuestKey, commitment, guest_key_of
from kbs_rim.sealing.jwe import PrivateKey, open_jwe

KEY_REQUEST_TYPE = "application/vnd.veraison.keybroker.background-check-key-request+json"
CHALLENGE_SIZE = 64
MAX_ANSWER_BYTES = 2 * DEFAULT_LIMITS.secret_bytes
"""A sealed secret is a third larger than the secret, base64url and header included."""
_RSA_BITS = 3072
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}(?:/[A-Za-z0-9][A-Za-z0-9._-]{0,63}){0,2}")
_CODE = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")
_TICKET = re.compile(r"[A-Za-z0-9._-]{1,128}")
_DEFAULT_PORTS = {"http": 80, "https": 443}


class EvidenceSource(Protocol):
    """Where evidence for a challenge comes from: ``tsm.TsmEvidence`` or ``simulator.SimulatedRealm``."""

    def evidence(self, challenge: bytes) -> Evidence:
        """Return token and logs for a 64-byte challenge; may block."""


class KeyType(StrEnum):
    """What kind of ephemeral key the guest makes."""

    P256 = "p256"
    P384 = "p384"
    X25519 = "x25519"
    RSA = "rsa"


def new_key(kind: KeyType) -> PrivateKey:
    """Make an ephemeral key; it never leaves this process."""
    match kind:
        case KeyType.P256:
            return ec.generate_private_key(ec.SECP256R1())
        case KeyType.P384:
            return ec.generate_private_key(ec.SECP384R1())
        case KeyType.X25519:
            return x25519.X25519PrivateKey.generate()
        case KeyType.RSA:
            return rsa.generate_private_key(65537, _RSA_BITS)


@dataclass(frozen=True, slots=True)
class Offer:
    """A challenge that commits to our key, and where its evidence goes."""

    challenge: bytes
    location: str


@dataclass(frozen=True, slots=True)
class Secret:
    """What the guest came for. ``ticket`` names the appraisal in the broker's records."""

    value: bytes = field(repr=False)
    ticket: str | None


class Exchange:
    """One guest, one ephemeral key, one secret; may be tried several times with new challenges."""

    def __init__(self, broker_url: str, name: str, private_key: PrivateKey) -> None:
        """``name`` is a key id or ``repository/type/tag``; raise ``ValueError`` for another name or URL."""
        parts = urlsplit(broker_url)
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or parts.query or parts.fragment or "@" in parts.netloc:
            raise ValueError("the broker's URL is http(s)://host[:port][/path]")
        if not _NAME.fullmatch(name):
            raise ValueError("a secret is named by a key id or by repository/type/tag")
        self.request_url = f"{broker_url.rstrip('/')}/keys/v1/key/{quote(name, safe='/')}"
        self._private_key = private_key
        self._own: GuestKey = guest_key_of(private_key.public_key())

    def key_request(self) -> bytes:
        """Return the body of the first request."""
        return strict_json.encode({"pubkey": dict(self._own.to_jwk())})

    def read_offer(self, location: str | None, body: bytes) -> Offer:
        """Check the answer 201 to the first request; raise ``BrokerNotTrusted``.

        A challenge that does not commit to our key is the mark of a man in the middle: if we answered it, the secret would be
        sealed to *his* key under *our* attestation.
        """
        members = _object(body, "the challenge")
        challenge, salt = _octets(members, "challenge", CHALLENGE_SIZE), _octets(members, "salt", SALT_BYTES)
        if not compare_digest(commitment(salt, self._own.thumbprint), challenge):
            message = "the challenge does not commit to our key: somebody between us and the broker swapped it"
            raise BrokerNotTrusted("guest.challenge-not-ours", message)
        accept = members.get("accept")
        if not isinstance(accept, list) or EVIDENCE_JSON_TYPE not in accept:
            raise BrokerNotTrusted("guest.accept", f"the broker does not read {EVIDENCE_JSON_TYPE}")
        return Offer(challenge, self._next_url(location))

    def _next_url(self, location: str | None) -> str:
        if not location:
            raise BrokerNotTrusted("guest.location", "the broker did not say where the evidence goes")
        target = _joined(self.request_url, location)
        if _origin(target) != _origin(self.request_url):
            raise BrokerNotTrusted("guest.location", "the broker wants the evidence to go to another origin than its own")
        return target

    def evidence_body(self, evidence: Evidence) -> tuple[str, bytes]:
        """Return media type and body of the second request."""
        return EVIDENCE_JSON_TYPE, encode_evidence_json(evidence)

    def read_secret(self, body: bytes) -> Secret:
        """Open the answer 200 to the second request; raise ``BrokerNotTrusted``."""
        members = _object(body, "the answer")
        sealed = members.get("data")
        if not isinstance(sealed, str):
            raise BrokerNotTrusted("guest.answer", "the answer holds no sealed secret")
        try:
            value = open_jwe(self._private_key, sealed)
        except UnopenableSecret as error:
            raise BrokerNotTrusted("guest.answer", str(error)) from None
        return Secret(value, _matching(members.get("ticket"), _TICKET))


_NO_BROKER_FOR_GUESTS = frozenset({"no-such-route", "unauthorized", "http-404", "http-401"})
"""What the internal listener, or some other server, says to a guest."""


def read_refusal(status: int, body: bytes) -> BrokerRefused:
    """Turn a 4xx answer into an error; its problem document (RFC 9457) may be missing or broken."""
    code, ticket = read_problem(status, body)
    message = "the broker refused" + (f"; the administrator finds the reason under ticket {ticket}" if ticket else "")
    if code in _NO_BROKER_FOR_GUESTS:
        message = "nothing for guests is there: --broker must name the listener for guests (http.guest, port 8088 unless configured)"
    return BrokerRefused(code, message, ticket=ticket)


def read_problem(status: int, body: bytes) -> tuple[str, str | None]:
    """Return code and ticket of a problem document, as far as they look as they should; else a code made of the status."""
    try:
        members: Mapping[str, object] = strict_json.decode_object(body, what="the problem", max_bytes=MAX_ANSWER_BYTES)
    except MalformedEvidence:
        members = {}
    return _matching(members.get("code"), _CODE) or f"http-{status}", _matching(members.get("ticket"), _TICKET)


def _matching(value: object, pattern: re.Pattern[str]) -> str | None:
    """Text of the broker that is shown to people: only what looks as it should."""
    return value if isinstance(value, str) and pattern.fullmatch(value) else None


def _object(body: bytes, what: str) -> dict[str, strict_json.JsonValue]:
    try:
        return strict_json.decode_object(body, what=what, max_bytes=MAX_ANSWER_BYTES)
    except MalformedEvidence as error:
        raise BrokerNotTrusted("guest.answer", str(error)) from None


def _octets(members: Mapping[str, object], name: str, size: int) -> bytes:
    text = members.get(name)
    try:
        value = base64url.decode(text, what=name) if isinstance(text, str) else b""
    except MalformedEvidence:
        value = b""
    if len(value) != size:
        raise BrokerNotTrusted("guest.answer", f"the answer has no {name} of {size} bytes")
    return value


def _joined(base: str, location: str) -> str:
    try:
        return urljoin(base, location)
    except ValueError:
        raise BrokerNotTrusted("guest.location", "the broker sent a malformed Location") from None


def _origin(url: str) -> tuple[str, str | None, int | None]:
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname, parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        raise BrokerNotTrusted("guest.location", "the broker sent a malformed Location") from None
