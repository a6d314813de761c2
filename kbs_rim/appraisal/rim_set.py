"""RIMs with labels, as a realm CoRIM: what plain Veraison and Trustee need to know a workload's realms.

A verifier that only compares RIMs knows nothing of images, command lines or rules. The set is as good as the way in which its RIMs were
found: computed from a definition, or seen and allowed by this broker. Alternatives cannot be said: what a workload leaves open besides
the RIM (several values of a REM, any personalization value) is left out, and so not judged by that verifier.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any

from kbs_rim.appraisal.corim_document import Comid, Corim, Entity, Profile, TagId
from kbs_rim.appraisal.corim_writer import content_id
from kbs_rim.appraisal.endorsements import DIGEST_BYTES, REM_COUNT, RPV_BYTES, Endorsements, RealmReference
from kbs_rim.appraisal.workload import RealmRules
from kbs_rim.errors import InvalidDocument
from kbs_rim.evidence.printable import printable

MAX_RIMS = 1024
"""RIMs of one CoRIM: with all other registers, in SHA-512, they stay within ``limits.endorsement_bytes``."""
_LABEL_LENGTH = 200
_HEX = re.compile(r"(?:[0-9a-f]{2})+", re.IGNORECASE)
_MEMBERS = {"rim", "rem", "rems", "rpv", "label"}
_SHORTEST_PADDING = 16
"""Zero bytes behind a SHA-384 in a register of 64; a SHA-512 that ends so does not happen."""


@dataclass(frozen=True, slots=True)
class LabelledRim:
    """Reference values of one realm, and what people call it: the tag-id of its CoMID."""

    label: str
    reference: RealmReference

    def __post_init__(self) -> None:
        if not self.label or len(self.label) > _LABEL_LENGTH or not self.label.isprintable():
            raise ValueError(f"a label is printable text of 1 to {_LABEL_LENGTH} characters")


def rim_set_corim(
    rims: Iterable[LabelledRim],
    *,
    entities: tuple[Entity, ...] = (),
    language: str | None = None,
    not_before: int | None = None,
    not_after: int | None = None,
    corim_id: TagId | None = None,
) -> Corim:
    """Return a realm CoRIM with one CoMID for each label; without ``corim_id`` its id follows from the content.

    Raises ``InvalidDocument("endorsement.unwritable")`` for none or more than ``MAX_RIMS``, and ``("endorsement.duplicate")`` for one RIM
    with two different sets of other values, which verifiers treat as they like.
    """
    unique: dict[bytes, LabelledRim] = {}
    for item in rims:
        held = unique.setdefault(item.reference.rim, item)
        if held.reference != item.reference:
            message = f"two reference values for one RIM: {held.label} and {item.label}"
            raise InvalidDocument("endorsement.duplicate", message, seen=item.reference.rim.hex())
    if not 1 <= len(unique) <= MAX_RIMS:
        raise InvalidDocument("endorsement.unwritable", f"a set of RIMs has 1 to {MAX_RIMS}", seen=str(len(unique)))
    by_label: dict[str, list[RealmReference]] = {}
    for item in unique.values():
        by_label.setdefault(item.label, []).append(item.reference)
    comids = tuple(
        Comid(tag_id=label, language=language, endorsements=Endorsements(realms=tuple(references)))
        for label, references in by_label.items()
    )
    corim = Corim(id=corim_id or "-", profile=Profile.REALM, comids=comids, entities=entities, not_before=not_before, not_after=not_after)
    return corim if corim_id else replace(corim, id=content_id(corim))


# --- from documents ---------------------------------------------------------------------------------------------------


def read_rims(document: Any, label: str) -> tuple[LabelledRim, ...]:
    """Read what ``kbs-rim measure --json`` prints: an object with ``rim`` and perhaps ``rem``, or a list of them.

    ``rem`` (or ``rems``) is a list of up to four, or an object by number. A member ``label`` names the realm, ``rpv`` is its
    personalization value; without a label it is ``label``. Raises ``InvalidDocument("endorsement.malformed")``.
    """
    items = document if isinstance(document, list) else [document]
    if not 1 <= len(items) <= MAX_RIMS:
        raise _malformed(f"a list of measurements has 1 to {MAX_RIMS}")
    return tuple(_read_rim(item, label if len(items) == 1 else f"{label}-{number}") for number, item in enumerate(items, 1))


def _read_rim(item: Any, label: str) -> LabelledRim:
    if not isinstance(item, Mapping):
        raise _malformed("a measurement is not an object")
    rems = item.get("rem", item.get("rems")) or {}
    pairs = enumerate(rems) if isinstance(rems, list) else rems.items() if isinstance(rems, Mapping) else None
    if pairs is None:
        raise _malformed("rem is neither a list nor an object")
    name = item.get("label", label)
    if not isinstance(name, str):
        raise _malformed("label is not text")
    rpv = item.get("rpv")
    try:
        values = {_rem_number(key): read_hex(value, "a REM") for key, value in pairs if value is not None}
        reference = RealmReference(
            read_hex(item.get("rim"), "rim"), values, None if rpv is None else read_hex(rpv, "rpv").ljust(RPV_BYTES, b"\0")
        )
        return LabelledRim(name, check_reference(reference))
    except ValueError as error:
        raise _malformed(f"{printable(name, 60)}: {error}") from None


def _rem_number(key: object) -> int:
    text = str(key).lower().removeprefix("rem")
    if text not in map(str, range(REM_COUNT)):
        raise ValueError("REMs are numbered 0 to 3")
    return int(text)


def read_hex(value: object, what: str) -> bytes:
    """Return the bytes of hexadecimal text; raise ``ValueError``."""
    if not isinstance(value, str) or not _HEX.fullmatch(value):
        raise ValueError(f"{what} is not hexadecimal")
    return bytes.fromhex(value)


def check_reference(reference: RealmReference) -> RealmReference:
    """Return ``reference`` if all its registers have the length of one algorithm, as a realm's do; raise ``ValueError``.

    A register as wide as the RMM keeps it, with zeros behind a shorter digest, is not mistaken for a SHA-512.
    """
    if len(reference.rim) == max(DIGEST_BYTES) and not any(reference.rim[-_SHORTEST_PADDING:]):
        raise ValueError("the RIM is padded with zeros to 64 bytes: give the digest alone, as --json and tokens have it")
    if any(len(value) != len(reference.rim) for value in reference.rems.values()):
        raise ValueError(f"RIM and REMs have one length, one of {', '.join(map(str, DIGEST_BYTES))} bytes")
    return reference


def _malformed(message: str) -> InvalidDocument:
    return InvalidDocument("endorsement.malformed", message)


# --- from a broker's records ------------------------------------------------------------------------------------------


def rims_of_appraisals(
    appraisals: Iterable[Mapping[str, Any]], name: str, rules: RealmRules, revision: int, trusted: AbstractSet[str]
) -> tuple[tuple[LabelledRim, ...], tuple[str, ...]]:
    """Return the RIMs of realms that were allowed as workload ``name``, oldest first, and why others were left out.

    ``appraisals`` are documents of the audit interface, newest first. Only what the present ``revision`` allowed counts, and only if all
    images of the realm are in ``trusted`` (ids of images that are active now): a RIM that stands on a revoked image must not be
    published. ``rules`` decide which other registers have one good value each.
    """
    found: dict[bytes, LabelledRim] = {}
    left_out: dict[str, int] = {}
    for appraisal in reversed(list(appraisals)):
        reason = _unfit(appraisal, name, revision, trusted)
        if reason is not None:
            left_out[reason] = left_out.get(reason, 0) + 1
            continue
        reference = _seen_reference(appraisal["facts"], rules)
        found.setdefault(reference.rim, LabelledRim(f"{name}/{reference.rim.hex()[:16]}", reference))
    return tuple(found.values()), tuple(f"{count} of them: {reason}" for reason, count in sorted(left_out.items()))


def _unfit(appraisal: Mapping[str, Any], name: str, revision: int, trusted: AbstractSet[str]) -> str | None:
    facts = appraisal.get("facts", {})
    if appraisal.get("verdict") != "allowed" or appraisal.get("workload") != name:
        return "not allowed as this workload"
    if appraisal.get("workload_revision") != revision:
        return "allowed by another revision of the workload"
    images = facts.get("images") or ()
    if not images or not set(images) <= trusted:
        return "an image of the realm is not active any more"
    return None


def _seen_reference(facts: Mapping[str, Any], rules: RealmRules) -> RealmReference:
    rems: Sequence[str] = facts["rems"]
    fixed = {number for number, rule in enumerate(rules.rems) if rule == "zero" or len(rule) == 1}
    try:
        return check_reference(
            RealmReference(
                bytes.fromhex(facts["rim"]),
                {number: bytes.fromhex(value) for number, value in enumerate(rems) if number in fixed},
                None if rules.rpv == "any" else bytes.fromhex(facts["rpv"]),
            )
        )
    except ValueError as error:
        raise _malformed(f"the broker's record of an appraisal: {error}") from None
