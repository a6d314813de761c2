"""Every format an endorsement file may have, told apart by content: CoRIM, CoMID templates in JSON, rust-ccatoken stores.

CoMID in JSON is what Veraison's ``cocli`` compiles; the stores are what Trustee's local CCA verifier reads, and are written here too.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.x509 import Certificate

from kbs_rim.appraisal.comid_json import read_json_comid
from kbs_rim.appraisal.comid_shape import malformed
from kbs_rim.appraisal.corim import parse_corim
from kbs_rim.appraisal.endorsements import Endorsements, PlatformReference, RealmReference, ReferenceComponent, TrustAnchor
from kbs_rim.appraisal.json_members import hex_member, list_member, non_empty_member, object_member, optional_text_member
from kbs_rim.appraisal.public_jwk import read_public_jwk
from kbs_rim.errors import InvalidDocument, MalformedEvidence
from kbs_rim.evidence import strict_json
from kbs_rim.limits import DEFAULT_LIMITS, Limits

_JSON_ITEMS = 100_000


def parse_endorsements(data: bytes, *, roots: Sequence[Certificate] = (), at: int, limits: Limits = DEFAULT_LIMITS) -> Endorsements:
    """Read one endorsement file of any known format; ``roots`` and ``at`` are for signed CoRIMs (see ``parse_corim``).

    Raises ``InvalidDocument("endorsement.*")``.
    """
    if data.lstrip()[:1] not in (b"{", b"["):
        return parse_corim(data, roots=roots, at=at, limits=limits)
    try:
        document = strict_json.decode(data, what="the endorsement file", max_bytes=limits.endorsement_bytes, max_items=_JSON_ITEMS)
    except MalformedEvidence as error:
        malformed(error.message, expected=error.expected, seen=error.seen)
    if isinstance(document, list):
        return Endorsements(trust_anchors=tuple(_stored_anchor(item) for item in non_empty_member(document, "trust anchors")))
    if isinstance(document, dict) and "triples" in document:
        return read_json_comid(document, limits)[1].endorsements
    if isinstance(document, dict) and {"platform", "realm"} & set(document):
        return _reference_store(document)
    return malformed("the JSON document is neither a CoMID nor a store of trust anchors or reference values")


# --- rust-ccatoken stores ---------------------------------------------------------------------------------------------


def _stored_anchor(item: Any) -> TrustAnchor:
    members = object_member(item, "a trust anchor", {"implementation-id", "instance-id", "pkey"})
    jwk = object_member(members.get("pkey"), "pkey", None)
    key, _ = read_public_jwk(jwk, finding_id="endorsement.malformed", what="the key of a trust anchor")
    if not isinstance(key, EllipticCurvePublicKey):
        malformed("the key of a trust anchor is not an EC key")
    try:
        return TrustAnchor(hex_member(members, "implementation-id"), hex_member(members, "instance-id"), key)
    except ValueError as error:
        malformed(f"trust anchor: {error}")


def _reference_store(document: Mapping[str, Any]) -> Endorsements:
    object_member(document, "the store of reference values", {"platform", "realm"})
    try:
        return Endorsements(
            platforms=tuple(_stored_platform(item) for item in list_member(document.get("platform", []), "platform")),
            realms=tuple(_stored_realm(item) for item in list_member(document.get("realm", []), "realm")),
        )
    except ValueError as error:
        malformed(f"store of reference values: {error}")


def _stored_platform(item: Any) -> PlatformReference:
    members = object_member(item, "a platform", {"implementation-id", "platform-configuration", "sw-components"})
    components = tuple(_stored_component(part) for part in non_empty_member(members.get("sw-components"), "sw-components"))
    config = hex_member(members, "platform-configuration") if "platform-configuration" in members else None
    return PlatformReference(hex_member(members, "implementation-id"), components, config)


def _stored_component(item: Any) -> ReferenceComponent:
    members = object_member(item, "a software component", {"component-type", "measurement-value", "signer-id", "version"})
    return ReferenceComponent(
        hex_member(members, "measurement-value"),
        hex_member(members, "signer-id"),
        optional_text_member(members, "component-type"),
        optional_text_member(members, "version"),
    )


def _stored_realm(item: Any) -> RealmReference:
    """Read a realm's reference values. The RAK's hash algorithm is read past: the RAK is bound by hash, whichever it is."""
    allowed = {"initial-measurement", "extensible-measurements", "personalization-value", "rak-hash-algorithm"}
    members = object_member(item, "a realm", allowed)
    rems = [hex_member({"": value}, "") for value in list_member(members.get("extensible-measurements", []), "extensible-measurements")]
    rpv = hex_member(members, "personalization-value") if "personalization-value" in members else None
    return RealmReference(hex_member(members, "initial-measurement"), dict(enumerate(rems)), rpv)


def store_document(endorsements: Endorsements) -> dict[str, Any]:
    """Return the reference values as a rust-ccatoken store (``rvstore.json``), which Trustee's local CCA verifier reads.

    A store has no validity, and counts REMs from 0 without gaps: raises ``InvalidDocument("endorsement.unwritable")`` for realms whose
    REMs have one. Trust anchors are in another file, and left out.
    """
    return {
        "platform": [_platform_document(platform) for platform in endorsements.platforms],
        "realm": [_realm_document(realm) for realm in endorsements.realms],
    }


def _platform_document(platform: PlatformReference) -> dict[str, Any]:
    document: dict[str, Any] = {"implementation-id": platform.implementation_id.hex()}
    if platform.config is not None:
        document["platform-configuration"] = platform.config.hex()
    document["sw-components"] = []
    for component in platform.components:
        members = {"component-type": component.measurement_type, "version": component.version}
        described = {name: text for name, text in members.items() if text is not None}
        described |= {"measurement-value": component.digest.hex(), "signer-id": component.signer_id.hex()}
        document["sw-components"].append(described)
    return document


def _realm_document(realm: RealmReference) -> dict[str, Any]:
    if sorted(realm.rems) != list(range(len(realm.rems))):
        raise InvalidDocument("endorsement.unwritable", "a store of reference values cannot leave out a REM before another one")
    document: dict[str, Any] = {"initial-measurement": realm.rim.hex()}
    if realm.rems:
        document["extensible-measurements"] = [realm.rems[number].hex() for number in sorted(realm.rems)]
    if realm.rpv is not None:
        document["personalization-value"] = realm.rpv.hex()
    return document
