"""The claims of CCA tokens as tables: one per profile, and the pairs of profiles that belong together.

Implements the CCA token specification, sections 2.2 and 3.2, and 4.4 item 17. A new profile is a new row here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Literal

from kbs_rim.evidence.claim_shapes import (
    DIGEST_SIZES,
    AnyMap,
    Array,
    Boolean,
    ByteString,
    Claim,
    HashName,
    OneOf,
    Record,
    Text,
    Unsigned,
)
from kbs_rim.evidence.hash_algorithm import HashAlgorithm

PLATFORM_TOKEN, REALM_TOKEN, DEVICE_TOKEN = 44234, 44241, 44258
"""Labels of the collection's members."""
RESERVED_MEMBERS = frozenset({44251, 44252, 44253, 44254, 44255, 44256})
"""Place holders of RMM 2.0 that nobody emits yet; refused like any unknown member, but never as a claim."""

PROFILE, CHALLENGE, INSTANCE_ID = 265, 10, 256
CLIENT_ID, LIFECYCLE, IMPLEMENTATION_ID, SW_COMPONENTS, VERIFICATION_SERVICE = 2394, 2395, 2396, 2399, 2400
CONFIG, PLATFORM_HASH, MANUFACTURING_CONFIG, PLATFORM_EXTENSION, TBB_ROTPK, PEER_SIGNERS = 2401, 2402, 2403, 2404, 2405, 2406
PERSONALIZATION_VALUE, REALM_HASH, PUBLIC_KEY, RIM, REMS, PUBLIC_KEY_HASH = 44235, 44236, 44237, 44238, 44239, 44240
MEC_POLICY, LFA_POLICY, DEVICES_HASH, DEVICE_MEASUREMENTS = 44243, 44244, 44257, 44259

COMPONENT_TYPE, COMPONENT_VALUE, COMPONENT_VERSION, COMPONENT_SIGNER, COMPONENT_HASH = 1, 2, 4, 5, 6
"""Labels of a software component."""

LIFECYCLE_RANGES = tuple((state << 8, state << 8 | 0xFF) for state in (0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60))
"""Bits 15:8 are the state, bits 7:0 belong to the implementation."""

_DIGEST = ByteString(DIGEST_SIZES)
_UEID = ByteString((33,), first=0x01)
_FLAG = Unsigned(((0, 1),))

_COMPONENT_1 = (
    Claim(COMPONENT_TYPE, "measurement type", Text(), required=False),
    Claim(COMPONENT_VALUE, "measurement value", _DIGEST),
    Claim(COMPONENT_VERSION, "version", Text(), required=False),
    Claim(COMPONENT_SIGNER, "signer id", _DIGEST),
    # Arm only recommends IANA names here: old tokens say "TF-M_SHA256MemPreXIP".
    Claim(COMPONENT_HASH, "hash algorithm", Text(), required=False),
)
_COMPONENT_2 = (
    *_COMPONENT_1,
    Claim(7, "live activation", Boolean(), required=False),
    Claim(8, "countersigners", Array(ByteString()), required=False),
)
_EXTENSION = (
    Claim(1, "hash algorithm", Text(), required=False),
    Claim(2, "measurement digest", _DIGEST),
    Claim(3, "certificate chain digest", _DIGEST),
    Claim(4, "uses IDE", Boolean()),
    Claim(5, "protocol", Text()),
    Claim(6, "VCA digest", _DIGEST, required=False),
)


def _platform(component: tuple[Claim, ...]) -> tuple[Claim, ...]:
    return (
        Claim(PROFILE, "profile", Text()),
        Claim(CHALLENGE, "challenge", _DIGEST),
        Claim(IMPLEMENTATION_ID, "implementation id", ByteString((32,))),
        Claim(INSTANCE_ID, "instance id", _UEID),
        Claim(CONFIG, "configuration", ByteString()),
        Claim(LIFECYCLE, "security life cycle", Unsigned(LIFECYCLE_RANGES)),
        Claim(SW_COMPONENTS, "software components", Array(Record(component))),
        Claim(VERIFICATION_SERVICE, "verification service", Text(), required=False),
        Claim(PLATFORM_HASH, "hash algorithm", HashName()),
    )


_PLATFORM_1 = _platform(_COMPONENT_1)
_PLATFORM_2 = (
    *_platform(_COMPONENT_2),
    Claim(CLIENT_ID, "client id", Unsigned(((1, 1),))),
    Claim(MANUFACTURING_CONFIG, "manufacturing configuration", ByteString(), required=False),
    Claim(PLATFORM_EXTENSION, "platform extension", Array(Record(_EXTENSION)), required=False),
    Claim(TBB_ROTPK, "trusted board boot keys", Array(AnyMap()), required=False),
    Claim(PEER_SIGNERS, "peer signers", ByteString(), required=False),
)

# Two drafts share the profile string of 2024: Arm's RMM text has integers, draft -03 has words.
MEC_POLICIES: Mapping[int | str, Literal["private", "shared"]] = MappingProxyType(
    {0: "shared", 1: "private", "shared": "shared", "private": "private"}
)
_MEC = OneOf(tuple(MEC_POLICIES))
_NO_SHA384 = (HashAlgorithm.SHA256, HashAlgorithm.SHA512)

# The length of claim 44237 is the key reader's to judge: it depends on the encoding.
_REALM = (
    Claim(CHALLENGE, "challenge", ByteString((64,))),
    Claim(PERSONALIZATION_VALUE, "personalization value", ByteString((64,))),
    Claim(PUBLIC_KEY, "public key", ByteString()),
    Claim(RIM, "initial measurement", _DIGEST),
    Claim(REMS, "extensible measurements", Array(_DIGEST, length=4)),
    Claim(PUBLIC_KEY_HASH, "public key hash algorithm", HashName()),
)
_REALM_LEGACY = (*_REALM, Claim(REALM_HASH, "hash algorithm", HashName(_NO_SHA384)))
_REALM_1 = (
    *_REALM,
    Claim(PROFILE, "profile", Text()),
    Claim(REALM_HASH, "hash algorithm", HashName()),
    Claim(MEC_POLICY, "memory encryption policy", _MEC, required=False),
)
_REALM_2 = (
    *_REALM,
    Claim(PROFILE, "profile", Text()),
    Claim(REALM_HASH, "hash algorithm", HashName()),
    Claim(MEC_POLICY, "memory encryption policy", _MEC),
    # Required by RMM 2.0, absent from tokens of draft -03, which has the same profile string.
    Claim(INSTANCE_ID, "instance id", _UEID, required=False),
    Claim(LFA_POLICY, "live firmware activation policy", _FLAG, required=False),
    Claim(DEVICES_HASH, "devices token hash", _DIGEST, required=False),
)

DEVICE_PROFILE = "tag:arm.com,2025:cca_device#2.0.0"
DEVICE_CLAIMS = (
    Claim(PROFILE, "profile", OneOf((DEVICE_PROFILE,))),
    Claim(
        DEVICE_MEASUREMENTS,
        "device measurements",
        Array(
            Record(
                (
                    Claim(1, "identity digest", _DIGEST),
                    Claim(2, "measurement digest", _DIGEST),
                    Claim(3, "negotiation digest", _DIGEST, required=False),
                    Claim(4, "flag", Boolean()),
                    Claim(5, "flag", Boolean()),
                )
            )
        ),
    ),
)


class RakEncoding(Enum):
    """What claim 44237 contains."""

    RAW_POINT = "raw-point"
    COSE_KEY = "cose-key"


@dataclass(frozen=True, slots=True)
class RealmProfile:
    """How a realm token of one profile is read."""

    claims: tuple[Claim, ...]
    rak: RakEncoding


LEGACY_PLATFORM = "http://arm.com/CCA-SSD/1.0.0"
PLATFORM_2023, PLATFORM_2024 = "tag:arm.com,2023:cca_platform#1.0.0", "tag:arm.com,2024:cca_platform#2.0.0"
REALM_2023, REALM_2024 = "tag:arm.com,2023:realm#1.0.0", "tag:arm.com,2024:realm#2.0.0"

PLATFORM_PROFILES: Mapping[str, tuple[Claim, ...]] = MappingProxyType(
    {LEGACY_PLATFORM: _PLATFORM_1, PLATFORM_2023: _PLATFORM_1, PLATFORM_2024: _PLATFORM_2}
)
REALM_PROFILES: Mapping[str | None, RealmProfile] = MappingProxyType(
    {
        None: RealmProfile(_REALM_LEGACY, RakEncoding.RAW_POINT),
        REALM_2023: RealmProfile(_REALM_1, RakEncoding.COSE_KEY),
        REALM_2024: RealmProfile(_REALM_2, RakEncoding.COSE_KEY),
    }
)


@dataclass(frozen=True, slots=True)
class ProfilePair:
    """A platform profile and a realm profile that belong together. ``realm`` is None where the token has no claim 265."""

    platform: str
    realm: str | None
    legacy: bool = False

    def __str__(self) -> str:
        return f"{self.platform} + {self.realm or 'no realm profile'}"


PROFILE_PAIRS: Mapping[tuple[str, str | None], ProfilePair] = MappingProxyType(
    {
        (pair.platform, pair.realm): pair
        for pair in (
            ProfilePair(LEGACY_PLATFORM, None, legacy=True),
            ProfilePair(PLATFORM_2023, REALM_2023),
            ProfilePair(PLATFORM_2023, REALM_2024),
            ProfilePair(PLATFORM_2024, REALM_2024),
        )
    }
)
"""Everything else is refused: choosing the profile chooses how claim 44237 is read."""

KNOWN_LABELS = frozenset(
    claim.label
    for table in (*PLATFORM_PROFILES.values(), *(profile.claims for profile in REALM_PROFILES.values()), DEVICE_CLAIMS)
    for claim in table
) | {PLATFORM_TOKEN, REALM_TOKEN, DEVICE_TOKEN, *RESERVED_MEMBERS}
"""Every label that means something anywhere in a token: no text key of a claims map may spell one."""
