"""What endorsers say about platforms and realms: trust anchors and reference values, and how they are found again.

The values here are trusted as far as whoever configured them is; the readers of their file formats are in ``corim`` and
``endorsement_files``. Validity is a property of a CoRIM and is checked when a value is looked up, not when it is read.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, SECP521R1, EllipticCurvePublicKey

from kbs_rim.appraisal.published_keys import thumbprint
from kbs_rim.errors import InvalidDocument
from kbs_rim.evidence.cca_token import SoftwareComponent

IMPLEMENTATION_ID_BYTES, INSTANCE_ID_BYTES, RPV_BYTES, REM_COUNT = 32, 33, 64, 4
DIGEST_BYTES = (32, 48, 64)
_CURVES = (SECP256R1, SECP384R1, SECP521R1)


def _demand(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, slots=True)
class TrustAnchor:
    """The CPAK of one platform: verifies its platform tokens."""

    implementation_id: bytes
    instance_id: bytes
    key: EllipticCurvePublicKey

    def __post_init__(self) -> None:
        _demand(len(self.implementation_id) == IMPLEMENTATION_ID_BYTES, "an implementation id has 32 bytes")
        _demand(len(self.instance_id) == INSTANCE_ID_BYTES and self.instance_id[0] == 1, "an instance id has 33 bytes, the first 0x01")
        _demand(isinstance(self.key.curve, _CURVES), "a CPAK is on P-256, P-384 or P-521")


@dataclass(frozen=True, slots=True)
class ReferenceComponent:
    """One software component that may run on a platform. A type or version of None matches any."""

    digest: bytes
    signer_id: bytes
    measurement_type: str | None = None
    version: str | None = None

    def __post_init__(self) -> None:
        _demand(len(self.digest) in DIGEST_BYTES, "a component's digest has 32, 48 or 64 bytes")
        _demand(len(self.signer_id) in DIGEST_BYTES, "a signer id has 32, 48 or 64 bytes")

    def matches(self, component: SoftwareComponent) -> bool:
        """Whether the measured component is this one. The signer counts, which Veraison overlooks."""
        return (
            component.measurement_value == self.digest
            and component.signer_id == self.signer_id
            and self.measurement_type in (None, component.measurement_type)
            and self.version in (None, component.version)
        )


@dataclass(frozen=True, slots=True)
class PlatformReference:
    """Reference values for all platforms of one implementation. ``config`` None: nothing is said about the configuration.

    ``config_mask`` is what the file says of the bits that matter. It is kept for writing and, as with Veraison, never applied.
    """

    implementation_id: bytes
    components: tuple[ReferenceComponent, ...]
    config: bytes | None = None
    config_mask: bytes | None = None

    def __post_init__(self) -> None:
        _demand(len(self.implementation_id) == IMPLEMENTATION_ID_BYTES, "an implementation id has 32 bytes")
        _demand(bool(self.components), "a platform reference has at least one software component")
        _demand(self.config_mask is None or len(self.config_mask) == len(self.config or b""), "a mask is as long as the configuration")


@dataclass(frozen=True, slots=True)
class RealmReference:
    """Reference values for one RIM. ``rems`` maps 0..3 to values; what is left out is not judged."""

    rim: bytes
    rems: Mapping[int, bytes] = field(default_factory=dict)
    rpv: bytes | None = None

    def __post_init__(self) -> None:
        _demand(len(self.rim) in DIGEST_BYTES, "a RIM has 32, 48 or 64 bytes")
        _demand(all(0 <= number < REM_COUNT for number in self.rems), "REMs are numbered 0 to 3")
        _demand(all(len(value) in DIGEST_BYTES for value in self.rems.values()), "a REM has 32, 48 or 64 bytes")
        _demand(self.rpv is None or len(self.rpv) == RPV_BYTES, "an RPV has 64 bytes")
        object.__setattr__(self, "rems", MappingProxyType(dict(self.rems)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Endorsements:
    """What one file says. ``not_before`` and ``not_after`` are seconds since the epoch; None means unbounded."""

    trust_anchors: tuple[TrustAnchor, ...] = ()
    platforms: tuple[PlatformReference, ...] = ()
    realms: tuple[RealmReference, ...] = ()
    not_before: int | None = None
    not_after: int | None = None

    def valid_at(self, at: int) -> bool:
        """Whether the file is within its validity at ``at`` (seconds since the epoch), bounds included."""
        return (self.not_before is None or self.not_before <= at) and (self.not_after is None or at <= self.not_after)


class EndorsementStore:
    """All endorsements of a verifier, looked up the way Veraison does. Immutable."""

    def __init__(self, files: Iterable[Endorsements]) -> None:
        """Raise ``InvalidDocument("endorsement.duplicate")`` if two files name different keys for one platform."""
        self._files = tuple(files)
        keys: dict[tuple[bytes, bytes], str] = {}
        for anchor in self.trust_anchors:
            name = thumbprint(anchor.key)
            if keys.setdefault((anchor.implementation_id, anchor.instance_id), name) != name:
                message = "two trust anchors with different keys for one platform instance"
                raise InvalidDocument("endorsement.duplicate", message, seen=anchor.instance_id.hex())

    def with_file(self, file: Endorsements) -> "EndorsementStore":
        """Return a store that has ``file`` as well; errors as for making one."""
        return EndorsementStore((*self._files, file))

    @property
    def trust_anchors(self) -> tuple[TrustAnchor, ...]:
        """Every trust anchor, valid now or not."""
        return tuple(anchor for file in self._files for anchor in file.trust_anchors)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """How many trust anchors, platform references and realm references there are."""
        return (
            len(self.trust_anchors),
            sum(len(file.platforms) for file in self._files),
            sum(len(file.realms) for file in self._files),
        )

    def trust_anchor(self, implementation_id: bytes, instance_id: bytes, at: int) -> TrustAnchor | None:
        """Return the trust anchor of one platform, if a file that is valid at ``at`` has it."""
        wanted = (implementation_id, instance_id)
        for file in self._valid(at):
            for anchor in file.trust_anchors:
                if (anchor.implementation_id, anchor.instance_id) == wanted:
                    return anchor
        return None

    def platform_references(self, implementation_id: bytes, at: int) -> tuple[PlatformReference, ...]:
        """Return every valid reference for an implementation."""
        return tuple(item for file in self._valid(at) for item in file.platforms if item.implementation_id == implementation_id)

    def realm_references(self, rim: bytes, at: int) -> tuple[RealmReference, ...]:
        """Return every valid reference for a RIM."""
        return tuple(item for file in self._valid(at) for item in file.realms if item.rim == rim)

    def _valid(self, at: int) -> Iterable[Endorsements]:
        return (file for file in self._files if file.valid_at(at))
