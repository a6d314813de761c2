"""The CCA token: two signed claim sets in one of two outer forms.

Everything structural happens here: outer form, COSE envelopes, headers, claims by profile, sizes, the encoding of the
realm attestation key. Nothing is verified: signatures, binding and challenge are judged in ``appraisal.token_rules``, the
platform's signature by the external verifier. Until then no claim is to be believed.

Implements the CCA token specification, sections 1 to 3 and 4.2 to 4.4 (items 4 to 19).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NoReturn

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence import token_claims as tc
from kbs_rim.evidence.claim_shapes import Claim, check_claims, kind_of, refuse_spelt_labels
from kbs_rim.evidence.cose import ALG, CONTENT_TYPE, ES256, ES384, ES512, KID, X5CHAIN, X5T, Sign1, algorithm_of, parse_sign1
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.evidence.rak import parse_rak
from kbs_rim.evidence.strict_cbor import CborMap, CborValue, decode
from kbs_rim.evidence.token_collection import Collection, TokenForm, join_collection, split_collection
from kbs_rim.limits import DEFAULT_LIMITS, Limits

__all__ = [
    "CcaToken",
    "DeviceToken",
    "PlatformClaims",
    "PlatformToken",
    "RealmClaims",
    "RealmToken",
    "SoftwareComponent",
    "TokenForm",
    "decode_claims",
    "parse_cca_token",
    "reassemble",
]

_PLATFORM_ALGORITHMS = (ES256, ES384, ES512)
_PLATFORM_HEADER: Mapping[int, tuple[type, ...]] = MappingProxyType(
    {ALG: (int,), CONTENT_TYPE: (int, str), KID: (bytes,), X5CHAIN: (bytes, tuple), X5T: (tuple,)}
)
"""What a platform token's protected header may hold. All but the algorithm is ignored."""
_SHOWN_PROFILE = 80
"""Characters of an unknown profile that a finding shows."""
_CERTIFICATE_LABELS = frozenset({X5CHAIN, X5T})


@dataclass(frozen=True, slots=True)
class SoftwareComponent:
    """One entry of claim 2399. ``hash_algorithm`` is the sender's text; old tokens hold names that are no hash."""

    measurement_type: str | None
    measurement_value: bytes
    version: str | None
    signer_id: bytes
    hash_algorithm: str | None


@dataclass(frozen=True, slots=True)
class PlatformClaims:
    """Claims of the platform token (specification 2.2). ``extra`` holds what has no field here, by label."""

    profile: str
    challenge: bytes
    implementation_id: bytes
    instance_id: bytes
    config: bytes
    lifecycle: int
    sw_components: tuple[SoftwareComponent, ...]
    verification_service: str | None
    hash_algorithm: str
    client_id: int | None
    extra: Mapping[int | str, CborValue]


@dataclass(frozen=True, slots=True)
class RealmClaims:
    """Claims of the realm token (specification 3.2).

    ``public_key`` is the content of claim 44237 as received: that, byte for byte, is what the platform token's challenge is
    the hash of. ``memory_encryption`` is None where the profile does not define the claim. ``lfa`` is claim 44244 (1: live
    firmware activation allowed). ``extra`` holds what has no field here, by label.
    """

    profile: str | None
    challenge: bytes
    instance_id: bytes | None
    personalization_value: bytes
    hash_algorithm: HashAlgorithm
    public_key: bytes
    public_key_hash_algorithm: HashAlgorithm
    initial_measurement: bytes
    extensible_measurements: tuple[bytes, bytes, bytes, bytes]
    memory_encryption: Literal["private", "shared"] | None
    lfa: int | None
    devices_hash: bytes | None = None
    extra: Mapping[int | str, CborValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PlatformToken:
    """The platform token: its bytes, its COSE structure, its claims."""

    raw: bytes
    sign1: Sign1
    claims: PlatformClaims


@dataclass(frozen=True, slots=True)
class RealmToken:
    """The realm token, and the key it says it is signed with."""

    raw: bytes
    sign1: Sign1
    claims: RealmClaims
    rak: EllipticCurvePublicKey


@dataclass(frozen=True, slots=True)
class DeviceToken:
    """The unsigned claims about assigned devices; they hash to claim 44257 of the realm token."""

    raw: bytes
    devices: tuple[Mapping[int | str, CborValue], ...]


@dataclass(frozen=True, slots=True)
class CcaToken:
    """A well-formed token of a known pair of profiles. ``raw`` is the whole input."""

    form: TokenForm
    platform: PlatformToken
    realm: RealmToken
    raw: bytes
    devices: DeviceToken | None = None

    def __post_init__(self) -> None:
        if (self.platform.claims.profile, self.realm.claims.profile) not in tc.PROFILE_PAIRS:
            raise ValueError("the profiles do not belong together")

    @property
    def profile_pair(self) -> tc.ProfilePair:
        """The two profiles; ``legacy`` says whether they are the ones of before RMM 1.0."""
        return tc.PROFILE_PAIRS[self.platform.claims.profile, self.realm.claims.profile]


def parse_cca_token(data: bytes, limits: Limits = DEFAULT_LIMITS) -> CcaToken:
    """Read a CCA token and check everything that needs neither a key nor a challenge.

    Raises ``MalformedEvidence("cbor.*" | "token.*")``. The legacy pair of profiles is read like any other.
    """
    collection = split_collection(data, limits)
    platform_sign1 = parse_sign1(collection.platform, limits=limits, what="platform token")
    realm_sign1 = parse_sign1(collection.realm, limits=limits, what="realm token")
    _check_platform_header(platform_sign1)
    _check_realm_header(realm_sign1)
    platform_map = decode_claims(platform_sign1, "platform token", limits)
    realm_map = decode_claims(realm_sign1, "realm token", limits)
    pair = _profile_pair(platform_map, realm_map)
    platform = _platform_claims(platform_map, pair)
    realm, rak = _realm_claims(realm_map, pair, limits)
    return CcaToken(
        form=collection.form,
        platform=PlatformToken(collection.platform, platform_sign1, platform),
        realm=RealmToken(collection.realm, realm_sign1, realm, rak),
        raw=data,
        devices=_device_token(collection.devices, realm, limits),
    )


def reassemble(token: CcaToken) -> bytes:
    """Return the collection in the token's own form, made anew from its members.

    That is what the verifier gets: none of the sender's bytes around the two signed strings, so nothing there can be read in
    two ways. Device claims go along; the realm token holds their hash.
    """
    devices = None if token.devices is None else token.devices.raw
    return join_collection(Collection(token.form, token.platform.raw, token.realm.raw, devices))


def _refuse(finding_id: str, message: str, expected: str | None = None, seen: str | None = None) -> NoReturn:
    raise MalformedEvidence(finding_id, message, expected=expected, seen=seen)


def _check_platform_header(sign1: Sign1) -> None:
    """Items 12 and 13. Certificates in the unprotected header are ignored: they never are a source of keys."""
    if unknown := sign1.unprotected.keys() - _CERTIFICATE_LABELS:
        seen = f"label {min(unknown)}"
        _refuse("token.header", "the platform token has an unprotected header parameter", "only certificates", seen)
    _check_algorithm(sign1, _PLATFORM_ALGORITHMS, "platform token")
    for label, value in sign1.protected.items():
        kinds = _PLATFORM_HEADER.get(label)
        if kinds is None or isinstance(value, bool) or not isinstance(value, kinds):
            _refuse("token.header", "the platform token has a protected header parameter that is not allowed", seen=f"label {label}")


def _check_realm_header(sign1: Sign1) -> None:
    """Items 12 and 13: every RMM writes {1: -35} and an empty map."""
    if sign1.unprotected:
        seen = f"label {min(sign1.unprotected)}"
        _refuse("token.header", "the realm token has an unprotected header parameter", "none", seen)
    _check_algorithm(sign1, (ES384,), "realm token")
    if others := sign1.protected.keys() - {ALG}:
        seen = f"label {min(others)}"
        _refuse("token.header", "the realm token has more than an algorithm in its protected header", "label 1", seen)


def _check_algorithm(sign1: Sign1, allowed: tuple[int, ...], what: str) -> None:
    algorithm = algorithm_of(sign1)
    if algorithm not in allowed:
        _refuse(
            "token.algorithm", f"the {what} has a signature algorithm that is not allowed", " or ".join(map(str, allowed)), str(algorithm)
        )


def decode_claims(sign1: Sign1, what: str, limits: Limits = DEFAULT_LIMITS) -> CborMap:
    """Decode a payload into its claims map, without judging any claim.

    Unknown claims may have text keys and hold floats. Raises ``MalformedEvidence("cbor.*" | "token.cose")``.
    """
    claims = decode(sign1.payload, limits=limits, allow_text_keys=True, allow_floats=True, what=f"{what}, claims")
    if not isinstance(claims, dict):
        _refuse("token.cose", f"the payload of the {what} is not a map", "map", kind_of(claims))
    return claims


def _profile_pair(platform: CborMap, realm: CborMap) -> tc.ProfilePair:
    """Item 17: the profiles come first, since they choose how everything else is read."""
    if tc.PROFILE not in platform:
        _refuse("token.claim-missing", f"platform token profile ({tc.PROFILE}) is absent")
    platform_profile = _profile(platform[tc.PROFILE], tc.PLATFORM_PROFILES, "platform token")
    realm_profile = _profile(realm[tc.PROFILE], tc.REALM_PROFILES, "realm token") if tc.PROFILE in realm else None
    pair = tc.PROFILE_PAIRS.get((platform_profile, realm_profile))
    if pair is None:
        _refuse("token.profile-pair", "the profiles of the two tokens do not belong together", seen=f"{platform_profile} + {realm_profile}")
    return pair


def _profile(value: CborValue, known: Mapping[Any, object], what: str) -> str:
    if not isinstance(value, str):
        _refuse("token.claim-type", f"{what} profile ({tc.PROFILE}) has the wrong type", "text string", kind_of(value))
    if value not in known:
        seen = value[:_SHOWN_PROFILE] if value.isascii() and value.isprintable() else "unprintable text"
        _refuse("token.profile", f"the {what} has a profile that is not supported", seen=seen)
    return value


def _checked(claims: CborMap, table: tuple[Claim, ...], what: str) -> dict[int | str, Any]:
    """Hold the map against its table; after that the types of the table's claims are known, hence ``Any``."""
    refuse_spelt_labels(claims, tc.KNOWN_LABELS, what)
    check_claims(claims, table, what)
    return dict(claims)


def _platform_claims(claims: CborMap, pair: tc.ProfilePair) -> PlatformClaims:
    """Item 16, section 2.2."""
    table = tc.PLATFORM_PROFILES[pair.platform]
    left = _checked(claims, table, "platform token")
    components = tuple(_component(entry) for entry in left.pop(tc.SW_COMPONENTS))
    hash_name = left.pop(tc.PLATFORM_HASH)
    _check_components(components, hash_name)
    return PlatformClaims(
        profile=left.pop(tc.PROFILE),
        challenge=left.pop(tc.CHALLENGE),
        implementation_id=left.pop(tc.IMPLEMENTATION_ID),
        instance_id=left.pop(tc.INSTANCE_ID),
        config=left.pop(tc.CONFIG),
        lifecycle=left.pop(tc.LIFECYCLE),
        sw_components=components,
        verification_service=left.pop(tc.VERIFICATION_SERVICE, None),
        hash_algorithm=hash_name,
        client_id=left.pop(tc.CLIENT_ID) if any(claim.label == tc.CLIENT_ID for claim in table) else None,
        extra=MappingProxyType(left),
    )


def _component(entry: Mapping[int | str, Any]) -> SoftwareComponent:
    return SoftwareComponent(
        measurement_type=entry.get(tc.COMPONENT_TYPE),
        measurement_value=entry[tc.COMPONENT_VALUE],
        version=entry.get(tc.COMPONENT_VERSION),
        signer_id=entry[tc.COMPONENT_SIGNER],
        hash_algorithm=entry.get(tc.COMPONENT_HASH),
    )


def _check_components(components: tuple[SoftwareComponent, ...], hash_name: str) -> None:
    """Item 18 for the platform: a component's own algorithm overrides the token's; a name that is no hash says no length."""
    known = {algorithm.value: algorithm for algorithm in HashAlgorithm}
    for index, component in enumerate(components):
        algorithm = known.get(hash_name if component.hash_algorithm is None else component.hash_algorithm)
        if algorithm is not None:
            _check_length(component.measurement_value, algorithm, f"platform token software components[{index}] measurement value")


def _check_length(value: bytes, algorithm: HashAlgorithm, name: str) -> None:
    if len(value) != algorithm.digest_size:
        expected = f"{algorithm.digest_size} bytes ({algorithm.value})"
        _refuse("token.hash-length", f"{name} has another length than its hash algorithm", expected, f"{len(value)} bytes")


def _realm_claims(claims: CborMap, pair: tc.ProfilePair, limits: Limits) -> tuple[RealmClaims, EllipticCurvePublicKey]:
    """Items 16, 18 and 19, section 3.2. A claim that the profile does not define is ignored, whatever it is elsewhere."""
    profile = tc.REALM_PROFILES[pair.realm]
    left = _checked(claims, profile.claims, "realm token")
    defined = {claim.label for claim in profile.claims}

    def optional(label: int) -> Any:
        return left.pop(label, None) if label in defined else None

    policy = optional(tc.MEC_POLICY)
    realm = RealmClaims(
        profile=optional(tc.PROFILE),
        challenge=left.pop(tc.CHALLENGE),
        instance_id=optional(tc.INSTANCE_ID),
        personalization_value=left.pop(tc.PERSONALIZATION_VALUE),
        hash_algorithm=HashAlgorithm(left.pop(tc.REALM_HASH)),
        public_key=left.pop(tc.PUBLIC_KEY),
        public_key_hash_algorithm=HashAlgorithm(left.pop(tc.PUBLIC_KEY_HASH)),
        initial_measurement=left.pop(tc.RIM),
        extensible_measurements=left.pop(tc.REMS),
        memory_encryption=None if policy is None else tc.MEC_POLICIES[policy],
        lfa=optional(tc.LFA_POLICY),
        devices_hash=optional(tc.DEVICES_HASH),
        extra=MappingProxyType(left),
    )
    _check_length(realm.initial_measurement, realm.hash_algorithm, f"realm token initial measurement ({tc.RIM})")
    for index, measurement in enumerate(realm.extensible_measurements):
        _check_length(measurement, realm.hash_algorithm, f"realm token extensible measurements ({tc.REMS})[{index}]")
    if realm.devices_hash is not None:
        _check_length(realm.devices_hash, realm.hash_algorithm, f"realm token devices token hash ({tc.DEVICES_HASH})")
    return realm, parse_rak(realm.public_key, profile.rak, limits)


def _device_token(raw: bytes | None, realm: RealmClaims, limits: Limits) -> DeviceToken | None:
    """Claim 44257 and member 44258 come together or not at all, and the one is the hash of the other (section 1.1)."""
    if raw is None and realm.devices_hash is None:
        return None
    if raw is None:
        _refuse("token.devices", "the realm token names devices, but the token does not describe them")
    if realm.devices_hash is None:
        _refuse("token.devices", "the token describes devices that the realm token does not name")
    if realm.hash_algorithm.digest(raw) != realm.devices_hash:
        _refuse("token.devices", "the description of the devices is not the one that the realm token names")
    claims = decode(raw, limits=limits, allow_text_keys=True, allow_floats=True, what="device token")
    if not isinstance(claims, dict):
        _refuse("token.devices", "the description of the devices is not a map", "map", kind_of(claims))
    checked = _checked(claims, tc.DEVICE_CLAIMS, "device token")
    return DeviceToken(raw, tuple(MappingProxyType(device) for device in checked[tc.DEVICE_MEASUREMENTS]))
