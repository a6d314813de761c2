"""The outer form of a CCA token: a tagged map of two signed byte strings, in an old and a new shape.

The form says nothing about the profiles inside. Implements the CCA token specification, sections 1.1 and 4.2 (items 4 to 10).
"""

from dataclasses import dataclass
from enum import Enum
from typing import NoReturn

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence import token_claims as tc
from kbs_rim.evidence.claim_shapes import kind_of
from kbs_rim.evidence.strict_cbor import CborMap, CborValue, Tagged, decode, encode, leading_tag
from kbs_rim.limits import DEFAULT_LIMITS, Limits

_EAT_CWT, _UCCS_CBOR = 263, 601
"""CoAP content formats of the records in the CMW form (RFC 9782)."""


class TokenForm(Enum):
    """The outer form; the value is the CBOR tag. Form and profile are independent."""

    EAT_COLLECTION = 399
    CMW_COLLECTION = 907


@dataclass(frozen=True, slots=True)
class Collection:
    """The members of the outer form, undecoded: two COSE_Sign1, and the device claims if there are any."""

    form: TokenForm
    platform: bytes
    realm: bytes
    devices: bytes | None = None

    def __post_init__(self) -> None:
        if self.devices is not None and self.form is not TokenForm.CMW_COLLECTION:
            raise ValueError("only the CMW form has a place for device claims")


def split_collection(data: bytes, limits: Limits = DEFAULT_LIMITS) -> Collection:
    """Read the outer form only; what the members hold is not looked at.

    Raises ``MalformedEvidence("cbor.*" | "token.too-large" | "token.form" | "token.member")``.
    """
    _check_size(data, limits.token_bytes, "token")
    form = _form(data)
    item = decode(data, limits=limits, outer_tag=True, preferred=True, what="collection")
    members = item.value if isinstance(item, Tagged) else item
    if not isinstance(members, dict):
        _refuse("token.form", "the collection is not a map", "map", kind_of(members))
    _check_labels(form, members)
    realm = _member(form, members, tc.REALM_TOKEN, _EAT_CWT)
    _check_size(realm, limits.realm_token_bytes, "realm token")
    devices = _member(form, members, tc.DEVICE_TOKEN, _UCCS_CBOR) if tc.DEVICE_TOKEN in members else None
    return Collection(form, _member(form, members, tc.PLATFORM_TOKEN, _EAT_CWT), realm, devices)


def join_collection(collection: Collection) -> bytes:
    """Return the collection in deterministic encoding: the inverse of ``split_collection``."""
    members: CborMap = {tc.PLATFORM_TOKEN: collection.platform, tc.REALM_TOKEN: collection.realm}
    if collection.form is TokenForm.CMW_COLLECTION:
        members = {label: (_EAT_CWT, member) for label, member in members.items()}
    if collection.devices is not None:
        members[tc.DEVICE_TOKEN] = (_UCCS_CBOR, collection.devices)
    return encode(Tagged(collection.form.value, members))


def _check_size(data: bytes, most: int, what: str) -> None:
    if len(data) > most:
        _refuse("token.too-large", f"the {what} is too large", f"at most {most} bytes", f"{len(data)} bytes")


def _form(data: bytes) -> TokenForm:
    """Look at the first head alone, so that something else altogether is called so."""
    tag = leading_tag(data)
    for form in TokenForm:
        if tag == form.value:
            return form
    seen = "no tag" if tag is None else f"tag {tag}"
    raise MalformedEvidence("token.form", "the token has no outer form that we know", expected="tag 399 or 907", seen=seen)


def _check_labels(form: TokenForm, members: CborMap) -> None:
    """Refuse every member we do not read. Device claims need the record that only the CMW form has."""
    allowed = {tc.PLATFORM_TOKEN, tc.REALM_TOKEN}
    if form is TokenForm.CMW_COLLECTION:
        allowed.add(tc.DEVICE_TOKEN)
    for label in members:
        if label not in allowed:
            _refuse("token.member", "the collection has a member that is not supported", seen=str(label))


def _member(form: TokenForm, members: CborMap, label: int, content_format: int) -> bytes:
    """Return a member's byte string; its shape must be that of the form, never the other's."""
    if label not in members:
        _refuse("token.member", f"the collection has no member {label}")
    member = members[label]
    if form is TokenForm.EAT_COLLECTION:
        content, expected = member, "byte string"
    else:
        content, expected = _record_content(member, content_format), f"array of {content_format} and a byte string"
    if not isinstance(content, bytes):
        _refuse("token.member", f"member {label} has the wrong shape", expected, kind_of(member))
    return content


def _record_content(record: CborValue, content_format: int) -> CborValue:
    """Return the second element of a record of the expected type, None for anything else."""
    if isinstance(record, tuple) and len(record) == 2 and record[0] == content_format:
        return record[1]
    return None


def _refuse(finding_id: str, message: str, expected: str | None = None, seen: str | None = None) -> NoReturn:
    raise MalformedEvidence(finding_id, message, expected=expected, seen=seen)
