"""The numbers of CoMID's CBOR form (draft-ietf-rats-corim), and what every reader of it demands of a shape."""

from collections.abc import Sequence
from typing import NoReturn

from kbs_rim.errors import InvalidDocument
from kbs_rim.evidence.strict_cbor import CborMap, CborValue, Tagged

TAG_EPOCH, TAG_URI, TAG_CORIM, TAG_COMID = 1, 32, 501, 506
TAG_UUID, TAG_UEID, TAG_PKIX_KEY, TAG_PKIX_CERT, TAG_BYTES = 37, 550, 554, 555, 560
"""CBOR tags of the type choices."""
CORIM_ID, CORIM_TAGS, CORIM_DEPENDENT, CORIM_PROFILE, CORIM_VALIDITY, CORIM_ENTITIES = range(6)
COMID_LANGUAGE, COMID_IDENTITY, COMID_ENTITIES, COMID_LINKED, COMID_TRIPLES = range(5)
ENTITY_NAME, ENTITY_URI, ENTITY_ROLES = range(3)
CLASS, INSTANCE, GROUP = 0, 1, 2
CLASS_ID, VENDOR, MODEL = 0, 1, 2
REFERENCE_TRIPLES, ATTEST_KEY_TRIPLES = 0, 3
MKEY, MVAL = 0, 1
VERSION, DIGESTS, RAW_VALUE, RAW_VALUE_MASK, NAME, CRYPTOKEYS = 0, 2, 4, 5, 11, 13
COMPONENT_KEY, CONFIG_KEY, RIM_KEY, RPV_KEY = "cca.software-component", "cca.platform-config", "cca.rim", "cca.rpv"
REM_KEYS = {f"cca.rem{number}": number for number in range(4)}
"""Measurement keys of the Arm profiles."""


def malformed(message: str, *, expected: str | None = None, seen: str | None = None) -> NoReturn:
    """Refuse an endorsement file."""
    raise InvalidDocument("endorsement.malformed", message, expected=expected, seen=seen)


def as_map(value: CborValue, what: str) -> CborMap:
    """Return ``value`` if it is a map, else refuse."""
    return value if isinstance(value, dict) else malformed(f"{what} is not a map")


def as_array(value: CborValue, what: str) -> tuple[CborValue, ...]:
    """Return ``value`` if it is an array of at least one item, else refuse."""
    return value if isinstance(value, tuple) and value else malformed(f"{what} is not a non-empty array")


def only(members: CborMap, allowed: Sequence[int], what: str) -> None:
    """Refuse members other than ``allowed``."""
    for key in members:
        if key not in allowed:
            malformed(f"{what} has a member that is not read here", seen=str(key)[:40])


def tagged_bytes(value: CborValue, tag: int, what: str, kind: str) -> bytes:
    """Return the bytes under ``tag``, else refuse."""
    if not isinstance(value, Tagged) or value.number != tag or not isinstance(value.value, bytes):
        malformed(f"{what} must be of type '{kind}'")
    return value.value
