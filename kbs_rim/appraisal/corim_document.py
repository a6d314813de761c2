"""What a CoRIM says, as values: between the readers (``corim``, ``comid``, ``comid_json``) and the writers (``corim_writer``,
``comid_template``).


Nothing here is trusted because it is here: whether a signature was verified is ``corim_signature``'s business.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from uuid import UUID

from kbs_rim.appraisal.endorsements import Endorsements
from kbs_rim.appraisal.image_reference import BuildPlan, ImageReference

TagId = str | UUID
"""Ids of CoRIMs and CoMIDs: text, or a UUID, which CBOR holds as 16 bytes."""
MANIFEST_CREATOR, MANIFEST_SIGNER = 1, 2
"""Roles of a CoRIM's entities (draft-ietf-rats-corim 4.1.5)."""
MAX_SECONDS = 253402300799
"""9999-12-31T23:59:59Z: beyond, a time is not a date any more."""
MAX_IMAGES, MAX_PLANS = 1024, 64
"""In one CoRIM: a release of a distribution has fewer images, and each plan costs a replay to whoever verifies it."""
_MAX_TEXT = 1024
_MAX_VERSION = 1 << 32


class Profile(Enum):
    """The CoRIM profiles that are read and written: two of draft-ydb-rats-cca-endorsements, and our own one for images (docs/corim.md)."""

    PLATFORM = "tag:arm.com,2025:cca_platform#1.0.0"
    REALM = "tag:arm.com,2025:cca_realm#1.0.0"
    IMAGE = "urn:uuid:7a55b31d-29df-40c8-acba-57425f3935b3"


def check_text(value: str, what: str) -> None:
    """Raise ``ValueError`` unless ``value`` is text of sensible length that prints."""
    if not value or len(value) > _MAX_TEXT or not value.isprintable():
        raise ValueError(f"{what} must be printable text of 1 to {_MAX_TEXT} characters")


def check_id(value: TagId, what: str) -> None:
    """Raise ``ValueError`` unless ``value`` may identify a CoRIM or CoMID."""
    if isinstance(value, str):
        check_text(value, what)


def check_validity(not_before: int | None, not_after: int | None) -> None:
    """Raise ``ValueError`` for a validity that cannot be written: it has an end, and begins before it."""
    for moment in (not_before, not_after):
        if moment is not None and not 0 <= moment <= MAX_SECONDS:
            raise ValueError("a time of the validity is out of range")
    if not_before is not None and not_after is None:
        raise ValueError("a validity that has a beginning has an end as well")
    if not_before is not None and not_after is not None and not_before > not_after:
        raise ValueError("the validity ends before it begins")


@dataclass(frozen=True, slots=True)
class Entity:
    """Somebody who takes part in a CoRIM or CoMID, by role number."""

    name: str
    uri: str | None = None
    roles: tuple[int, ...] = (MANIFEST_CREATOR,)

    def __post_init__(self) -> None:
        check_text(self.name, "the name of an entity")
        if self.uri is not None:
            check_text(self.uri, "the URI of an entity")
        if not self.roles or not all(0 <= role < 1 << 16 for role in self.roles):
            raise ValueError("an entity has at least one role")


@dataclass(frozen=True, slots=True, kw_only=True)
class Comid:
    """One CoMID. ``endorsements`` holds what the two Arm profiles say, ``images`` and ``plans`` what ours says."""

    tag_id: TagId
    version: int = 0
    language: str | None = None
    entities: tuple[Entity, ...] = ()
    endorsements: Endorsements = field(default_factory=Endorsements)
    images: tuple[ImageReference, ...] = ()
    plans: tuple[BuildPlan, ...] = ()

    def __post_init__(self) -> None:
        check_id(self.tag_id, "a CoMID's tag-id")
        if not 0 <= self.version < _MAX_VERSION:
            raise ValueError("a CoMID's version is a small number")
        if self.language is not None:
            check_text(self.language, "a CoMID's language")


@dataclass(frozen=True, slots=True, kw_only=True)
class Corim:
    """One CoRIM. Times are seconds since the epoch; None means unbounded. ``dependents`` counts the CoRIMs that it points to."""

    id: TagId
    profile: Profile
    comids: tuple[Comid, ...]
    entities: tuple[Entity, ...] = ()
    not_before: int | None = None
    not_after: int | None = None
    dependents: int = 0

    def __post_init__(self) -> None:
        check_id(self.id, "the corim-id")
        if not self.comids:
            raise ValueError("a CoRIM holds at least one CoMID")
        if len(self.images) > MAX_IMAGES or len(self.plans) > MAX_PLANS:
            raise ValueError(f"a CoRIM describes at most {MAX_IMAGES} images and {MAX_PLANS} build plans")

    @property
    def endorsements(self) -> Endorsements:
        """All that its CoMIDs say, with the CoRIM's validity."""
        return merge((comid.endorsements for comid in self.comids), self.not_before, self.not_after)

    @property
    def images(self) -> tuple[ImageReference, ...]:
        """Every image."""
        return tuple(image for comid in self.comids for image in comid.images)

    @property
    def plans(self) -> tuple[BuildPlan, ...]:
        """Every build plan of a realm."""
        return tuple(plan for comid in self.comids for plan in comid.plans)


def merge(parts: Iterable[Endorsements], not_before: int | None = None, not_after: int | None = None) -> Endorsements:
    """Return what all ``parts`` say together."""
    held = tuple(parts)
    return Endorsements(
        trust_anchors=tuple(anchor for part in held for anchor in part.trust_anchors),
        platforms=tuple(platform for part in held for platform in part.platforms),
        realms=tuple(realm for part in held for realm in part.realms),
        not_before=not_before,
        not_after=not_after,
    )


def read_id(text: str) -> TagId:
    """Return a UUID if ``text`` is one in its usual form, else the text: as Veraison's ``cocli`` reads ids."""
    try:
        found = UUID(text)
    except ValueError:
        return text
    return found if str(found) == text.lower() else text
