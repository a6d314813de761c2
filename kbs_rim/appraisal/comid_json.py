"""CoMIDs and CoRIMs in the JSON of Veraison's ``cocli``: its templates, read into the same values as the CBOR form.

The names are translated into the integer keys and tags of CBOR, and ``comid`` judges the result. JSON carries no profile in a CoMID: it
follows from what the CoMID speaks about.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from kbs_rim.appraisal import comid_shape as shape
from kbs_rim.appraisal.comid import read_comid, read_entities
from kbs_rim.appraisal.comid_shape import malformed
from kbs_rim.appraisal.corim_document import Comid, Entity, Profile, TagId, read_id
from kbs_rim.appraisal.json_members import base64_member, list_member, object_member
from kbs_rim.errors import InvalidDocument
from kbs_rim.evidence.strict_cbor import CborMap, CborValue, Tagged
from kbs_rim.limits import DEFAULT_LIMITS, Limits

_TAGS = {"bytes": shape.TAG_BYTES, "ueid": shape.TAG_UEID, "uuid": shape.TAG_UUID}
_KEY_TAGS = {"pkix-base64-key": shape.TAG_PKIX_KEY, "pkix-base64-cert": shape.TAG_PKIX_CERT, "bytes": shape.TAG_BYTES}
COMID_ROLES = {"tagCreator": 0, "creator": 1, "maintainer": 2}
CORIM_ROLES = {"manifestCreator": 1, "manifestSigner": 2}
_COMID_MEMBERS = {"lang", "tag-identity", "entities", "linked-tags", "triples"}
_CORIM_MEMBERS = {"corim-id", "profile", "validity", "entities", "dependent-rims", "tags"}

_PROFILES = ", ".join(profile.value for profile in Profile)


@dataclass(frozen=True, slots=True)
class CorimTemplate:
    """A CoRIM without its CoMIDs, as ``cocli`` has it in a file of its own. What is None or empty was not given."""

    id: TagId | None = None
    profile: Profile | None = None
    entities: tuple[Entity, ...] = ()
    not_before: int | None = None
    not_after: int | None = None


def read_json_comid(document: Any, limits: Limits = DEFAULT_LIMITS) -> tuple[Profile, Comid]:
    """Read a CoMID; raise ``InvalidDocument("endorsement.malformed")``."""
    members = object_member(document, "the CoMID", _COMID_MEMBERS)
    triples = object_member(members.get("triples"), "triples", {"reference-values", "attester-verification-keys"})
    shaped: CborMap = {}
    if "reference-values" in triples:
        references = list_member(triples["reference-values"], "reference-values")
        shaped[shape.REFERENCE_TRIPLES] = tuple(_json_reference(item) for item in references)
    if "attester-verification-keys" in triples:
        keys = list_member(triples["attester-verification-keys"], "attester-verification-keys")
        shaped[shape.ATTEST_KEY_TRIPLES] = tuple(_json_anchor(item) for item in keys)
    comid: CborMap = {shape.COMID_IDENTITY: _json_identity(members.get("tag-identity")), shape.COMID_TRIPLES: shaped}
    if "linked-tags" in members:
        comid[shape.COMID_LINKED] = ()
    if "lang" in members:
        comid[shape.COMID_LANGUAGE] = members["lang"]
    if members.get("entities"):
        comid[shape.COMID_ENTITIES] = tuple(_json_entity(item, COMID_ROLES) for item in list_member(members["entities"], "entities"))
    profile = _profile_of(shaped)
    return profile, read_comid(comid, profile, limits)


def read_json_corim(document: Any) -> CorimTemplate:
    """Read a CoRIM template; raise ``InvalidDocument("endorsement.malformed" | "endorsement.profile")``."""
    members = object_member(document, "the CoRIM template", _CORIM_MEMBERS)
    for name in ("dependent-rims", "tags"):
        if members.get(name):
            malformed(f"a CoRIM template with {name} is not read here; give the CoMIDs in files of their own")
    identity = members.get("corim-id")
    if identity is not None and not (isinstance(identity, str) and identity):
        malformed("corim-id is not text")
    validity = object_member(members.get("validity", {}), "validity", {"not-before", "not-after"})
    try:
        return CorimTemplate(
            None if identity is None else read_id(identity),
            None if members.get("profile") is None else _json_profile(members["profile"]),
            tuple(_entity(item) for item in list_member(members.get("entities", []), "entities")),
            _moment(validity.get("not-before"), "not-before"),
            _moment(validity.get("not-after"), "not-after"),
        )
    except ValueError as error:
        malformed(f"CoRIM template: {error}")


def _json_profile(value: Any) -> Profile:
    """A profile is ``{"type": "uri", "value": ...}``, in older templates the text alone or in a list."""
    if isinstance(value, dict) and value.get("type") == "uri":
        value = value.get("value")
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    for profile in Profile:
        if profile.value == value:
            return profile
    seen = ascii(value[:80]) if isinstance(value, str) else "none"
    raise InvalidDocument("endorsement.profile", "the template has no known profile", expected=_PROFILES, seen=seen)


def _moment(value: Any, what: str) -> int | None:
    if value is None:
        return None
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    except (TypeError, ValueError, OverflowError):
        malformed(f"{what} is not a time such as 2026-11-23T12:00:00Z")


def _entity(item: Any) -> Entity:
    shaped = _json_entity(item, CORIM_ROLES)
    (entity,) = read_entities((shaped,))
    return entity


def _json_entity(item: Any, roles: Mapping[str, int]) -> CborMap:
    members = object_member(item, "an entity", {"name", "regid", "roles"})
    shaped: CborMap = {shape.ENTITY_NAME: members.get("name")}
    if "regid" in members:
        shaped[shape.ENTITY_URI] = Tagged(shape.TAG_URI, members["regid"])
    names = list_member(members.get("roles"), "the roles of an entity")
    if not all(isinstance(name, str) and name in roles for name in names):
        malformed("an entity has an unknown role", expected=", ".join(roles))
    shaped[shape.ENTITY_ROLES] = tuple(roles[name] for name in names)
    return shaped


def _json_identity(value: Any) -> CborValue:
    members = object_member(value, "the CoMID's tag-identity", {"id", "version"})
    identity = members.get("id")
    if not isinstance(identity, str) or not identity:
        malformed("the CoMID's tag-id is not text")
    found = read_id(identity)
    return {0: found if isinstance(found, str) else found.bytes, 1: members.get("version", 0)}


def _profile_of(triples: CborMap) -> Profile:
    """A CoMID that names realm measurements is about realms; anything else must hold as one about platforms."""
    for triple in _tuple(triples.get(shape.REFERENCE_TRIPLES)):
        _, measurements = _tuple(triple)
        for measurement in _tuple(measurements):
            mkey = measurement.get(shape.MKEY) if isinstance(measurement, dict) else None
            if isinstance(mkey, str) and mkey.startswith(("cca.rim", "cca.rem", "cca.rpv")):
                return Profile.REALM
    return Profile.PLATFORM


def _tuple(value: CborValue) -> tuple[CborValue, ...]:
    return value if isinstance(value, tuple) else ()


def _json_reference(item: Any) -> CborValue:
    members = object_member(item, "a reference value", {"environment", "measurements"})
    measurements = tuple(_json_measurement(one) for one in list_member(members.get("measurements"), "measurements"))
    return (_json_environment(members.get("environment")), measurements)


def _json_anchor(item: Any) -> CborValue:
    members = object_member(item, "an attester verification key", {"environment", "verification-keys"})
    keys = tuple(_json_choice(key, _KEY_TAGS, "a verification key") for key in list_member(members.get("verification-keys"), "keys"))
    return (_json_environment(members.get("environment")), keys)


def _json_environment(value: Any) -> CborMap:
    members = object_member(value, "environment", {"class", "instance", "group"})
    environment: CborMap = {}
    if "class" in members:
        names = {"id": shape.CLASS_ID, "vendor": shape.VENDOR, "model": shape.MODEL, "layer": 3, "index": 4}
        described = object_member(members["class"], "environment.class", set(names))
        shaped: CborMap = {names[name]: None for name in described}
        if "id" in described:
            shaped[shape.CLASS_ID] = _json_choice(described["id"], _TAGS, "environment.class.id")
        environment[shape.CLASS] = shaped
    if "instance" in members:
        environment[shape.INSTANCE] = _json_choice(members["instance"], _TAGS, "environment.instance")
    if "group" in members:
        environment[shape.GROUP] = None
    return environment


def _json_measurement(item: Any) -> CborMap:
    members = object_member(item, "a measurement", {"key", "value"})
    shaped: CborMap = {}
    if "key" in members:
        key = object_member(members["key"], "mkey", {"type", "value"})
        shaped[shape.MKEY] = key["value"] if key.get("type") == "string" and isinstance(key.get("value"), str) else None
    if "value" in members:
        shaped[shape.MVAL] = _json_value(members["value"])
    return shaped


def _json_value(value: Any) -> CborMap:
    readers = {
        "version": (shape.VERSION, _json_version),
        "digests": (shape.DIGESTS, _json_digests),
        "raw-value": (shape.RAW_VALUE, lambda item: _json_choice(item, _TAGS, "raw-value")),
        "raw-value-mask": (shape.RAW_VALUE_MASK, lambda item: base64_member(item, "raw-value-mask")),
        "name": (shape.NAME, lambda item: item if isinstance(item, str) else malformed("name is not text")),
        "cryptokeys": (
            shape.CRYPTOKEYS,
            lambda item: tuple(_json_choice(key, _KEY_TAGS, "cryptokeys") for key in list_member(item, "cryptokeys")),
        ),
    }
    shaped: CborMap = {}
    for name, content in object_member(value, "the value of a measurement", None).items():
        if name not in readers:
            malformed("the value of a measurement has a member that is not read here", seen=name[:40])
        number, read = readers[name]
        shaped[number] = read(content)
    return shaped


def _json_version(value: Any) -> CborValue:
    members = object_member(value, "version", {"value", "scheme"})
    text = members.get("value")
    return {0: text if isinstance(text, str) else None}


def _json_digests(value: Any) -> CborValue:
    """Digests stand as ``[algorithm, base64]`` or, in older templates, as ``"algorithm;base64"``."""
    entries: list[CborValue] = []
    for item in list_member(value, "digests"):
        pair = item.split(";", 1) if isinstance(item, str) else item
        if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], int | str):
            malformed("a digest is not an algorithm and a base64 text")
        entries.append((pair[0], base64_member(pair[1], "a digest")))
    return tuple(entries)


def _json_choice(value: Any, tags: Mapping[str, int], what: str) -> CborValue:
    """Turn ``{"type": ..., "value": ...}`` into the tagged value of the CBOR form."""
    members = object_member(value, what, {"type", "value"})
    kind = members.get("type")
    if not isinstance(kind, str) or kind not in tags:
        malformed(f"{what} has an unknown type", expected=", ".join(tags), seen=ascii(kind)[:40])
    if kind.startswith("pkix") or kind == "uuid":
        text = members.get("value")
        return Tagged(tags[kind], text if isinstance(text, str) else None)
    return Tagged(tags[kind], base64_member(members.get("value"), what))
