"""Real CCA tokens from generated keys, in both outer forms and all profiles (draft-ffm-rats-cca-token).

A ``PlatformBoot`` is one boot of one platform: it makes the realm attestation key (RAK) and gets the platform token once, as
the RMM does; every realm of that boot shares both. Claim names and tables are written out here again, on purpose: nothing
is shared with the room that reads tokens.
"""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Any

import cbor2
from cryptography.hazmat.primitives.asymmetric import ec

from kbs_rim.realm.cose_sign import sign_claims
from kbs_rim.realm.platform_identity import Component, PlatformIdentity

PLATFORM_KEY, REALM_KEY = 44234, 44241
_EAT_CWT = 263


class OuterForm(Enum):
    """The CBOR tag around platform and realm token."""

    EAT = 399
    CMW = 907


class TokenProfile(StrEnum):
    """The pairs of platform and realm profile that exist."""

    LEGACY = "legacy"
    P2023_R2023 = "2023-2023"
    P2023_R2024 = "2023-2024"
    P2024_R2024 = "2024-2024"

    @property
    def platform(self) -> str:
        """Claim 265 of the platform token."""
        return _PLATFORM_PROFILE[self]

    @property
    def realm(self) -> str | None:
        """Claim 265 of the realm token; None: the claim is absent."""
        return _REALM_PROFILE[self]


_PLATFORM_PROFILE = {
    TokenProfile.LEGACY: "http://arm.com/CCA-SSD/1.0.0",
    TokenProfile.P2023_R2023: "tag:arm.com,2023:cca_platform#1.0.0",
    TokenProfile.P2023_R2024: "tag:arm.com,2023:cca_platform#1.0.0",
    TokenProfile.P2024_R2024: "tag:arm.com,2024:cca_platform#2.0.0",
}
_REALM_PROFILE = {
    TokenProfile.LEGACY: None,
    TokenProfile.P2023_R2023: "tag:arm.com,2023:realm#1.0.0",
    TokenProfile.P2023_R2024: "tag:arm.com,2024:realm#2.0.0",
    TokenProfile.P2024_R2024: "tag:arm.com,2024:realm#2.0.0",
}


class MecSpelling(StrEnum):
    """How claim 44243 is written: TF-RMM 0.8 and 0.9 and draft -03 use words, RMM 2.0 integers; older RMMs leave it out."""

    NONE = "none"
    TEXT = "text"
    INTEGER = "integer"


@dataclass(frozen=True, slots=True)
class RealmState:
    """What the RMM knows about a realm when it signs. ``hash`` is a name of hashlib such as ``sha256``."""

    hash: str
    rim: bytes
    rems: tuple[bytes, ...]
    rpv: bytes = bytes(64)
    memory_private: bool = False
    instance_id: bytes = field(default_factory=lambda: b"\x01" + secrets.token_bytes(32))


class PlatformBoot:
    """One boot of a platform: a new RAK, and the platform token that is bound to it."""

    def __init__(
        self,
        identity: PlatformIdentity,
        profile: TokenProfile = TokenProfile.P2023_R2023,
        *,
        mec: MecSpelling | None = None,
        rak_hash: str = "sha256",
    ) -> None:
        """``mec`` None: the spelling that belongs to the profile."""
        self.identity = identity
        self.profile = profile
        self.rak = ec.generate_private_key(ec.SECP384R1())
        self._rak_hash = rak_hash
        self._mec = mec or (MecSpelling.INTEGER if profile.realm == _REALM_PROFILE[TokenProfile.P2024_R2024] else MecSpelling.NONE)
        self.platform_token = sign_claims(self._platform_claims(), identity.cpak)

    @property
    def rak_content(self) -> bytes:
        """The bytes inside claim 44237: a raw point in legacy tokens, else a COSE_Key in t_cose's member order."""
        numbers = self.rak.public_key().public_numbers()
        x, y = numbers.x.to_bytes(48, "big"), numbers.y.to_bytes(48, "big")
        if self.profile is TokenProfile.LEGACY:
            return b"\x04" + x + y
        return cbor2.dumps({1: 2, -1: 2, -2: x, -3: y})

    def _platform_claims(self) -> dict[int, Any]:
        identity = self.identity
        claims: dict[int, Any] = {
            265: self.profile.platform,
            10: hashlib.new(self._rak_hash, self.rak_content).digest(),
            2396: identity.implementation_id,
            256: identity.instance_id,
            2401: identity.config,
            2395: identity.lifecycle,
            2399: [_component(part) for part in identity.components],
            2402: "sha-256",
        }
        if self.profile is TokenProfile.P2024_R2024:
            claims[2394] = 1
        return claims

    def realm_token(self, realm: RealmState, challenge: bytes) -> bytes:
        """Sign a realm token for a 64-byte challenge; claims stand in TF-RMM's order."""
        profile = self.profile.realm
        claims: dict[int, Any] = {10: challenge}
        if profile == _REALM_PROFILE[TokenProfile.P2024_R2024] and self._mec is not MecSpelling.TEXT:
            claims[256] = realm.instance_id
        claims |= {
            44235: realm.rpv,
            44237: self.rak_content,
            44236: _iana(realm.hash),
            44240: _iana(self._rak_hash),
        }
        if self._mec is MecSpelling.TEXT:
            claims[44243] = "private" if realm.memory_private else "shared"
        elif self._mec is MecSpelling.INTEGER:
            claims[44243] = int(realm.memory_private)
        if profile is not None:
            claims[265] = profile
        claims |= {44238: realm.rim, 44239: list(realm.rems)}
        return sign_claims(claims, self.rak)

    def token(self, realm: RealmState, challenge: bytes, form: OuterForm = OuterForm.CMW) -> bytes:
        """Return the whole CCA token, as configfs-tsm's ``outblob`` gives it."""
        return collection(form, [(PLATFORM_KEY, self.platform_token), (REALM_KEY, self.realm_token(realm, challenge))])


def collection(form: OuterForm, members: Sequence[tuple[int | str, bytes]]) -> bytes:
    """Encode the outer collection by hand, so that members may repeat and keys may be text: a lie needs that."""
    if len(members) > 23:
        raise ValueError("a collection of more than 23 members is not written here")
    parts = [bytes([0xD9]), form.value.to_bytes(2, "big"), bytes([0xA0 | len(members)])]
    for key, token in members:
        parts += [cbor2.dumps(key), cbor2.dumps([_EAT_CWT, token] if form is OuterForm.CMW else token)]
    return b"".join(parts)


def _component(part: Component) -> dict[int, Any]:
    return {1: part.name, 2: part.measurement, 4: part.version, 5: part.signer_id, 6: "sha-256"}


def _iana(hash_name: str) -> str:
    return hash_name.replace("sha", "sha-", 1)
