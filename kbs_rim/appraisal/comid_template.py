"""CoMIDs written as JSON: in the present form of Veraison's ``cocli``, and in the old one of the tool cca-realm-measurements.

The old form (draft-ydb-rats-cca-endorsements-00: integrity registers, an instance) is refused by Veraison since March 2026. It is
written for those who compile it with tools of that time.
"""

import json
from base64 import b64encode
from collections.abc import Mapping
from typing import Any

from kbs_rim.appraisal.comid_json import COMID_ROLES
from kbs_rim.appraisal.comid_shape import COMPONENT_KEY, CONFIG_KEY, RIM_KEY, RPV_KEY
from kbs_rim.appraisal.corim_document import Comid, Entity
from kbs_rim.appraisal.corim_writer import DIGEST_ALGORITHMS, public_key_pem
from kbs_rim.appraisal.endorsements import REM_COUNT, RPV_BYTES, PlatformReference, RealmReference, ReferenceComponent, TrustAnchor
from kbs_rim.appraisal.json_members import list_member, object_member
from kbs_rim.errors import InvalidDocument
from kbs_rim.evidence.hash_algorithm import HashAlgorithm

_REGISTER_BYTES = 64
_NAMES = {algorithm.digest_size: algorithm.value for algorithm in HashAlgorithm}


def comid_document(comid: Comid) -> dict[str, Any]:
    """Return a CoMID of platforms or realms as ``cocli``'s JSON; ``comid_json.read_json_comid`` reads it back.

    Raises ``InvalidDocument("endorsement.unwritable")`` for images, which that JSON cannot express.
    """
    if comid.images or comid.plans:
        raise InvalidDocument("endorsement.unwritable", "images have no form in JSON CoMIDs")
    held = comid.endorsements
    triples: dict[str, Any] = {}
    if held.platforms or held.realms:
        platforms = [_platform(reference) for reference in held.platforms]
        triples["reference-values"] = platforms + [_realm(reference) for reference in held.realms]
    if held.trust_anchors:
        triples["attester-verification-keys"] = [_anchor(anchor) for anchor in held.trust_anchors]
    document: dict[str, Any] = {"tag-identity": {"id": str(comid.tag_id), "version": comid.version}}
    if comid.language is not None:
        document = {"lang": comid.language, **document}
    if comid.entities:
        document["entities"] = [_entity(entity) for entity in comid.entities]
    return {**document, "triples": triples}


def _entity(entity: Entity) -> dict[str, Any]:
    names = {number: name for name, number in COMID_ROLES.items()}
    if not set(entity.roles) <= set(names):
        raise InvalidDocument("endorsement.unwritable", "an entity has a role that CoMID does not know")
    regid = {} if entity.uri is None else {"regid": entity.uri}
    return {"name": entity.name, **regid, "roles": [names[role] for role in entity.roles]}


def _bytes(value: bytes, kind: str = "bytes") -> dict[str, str]:
    return {"type": kind, "value": b64encode(value).decode("ascii")}


def _class(identity: bytes) -> dict[str, Any]:
    return {"class": {"id": _bytes(identity)}}


def _digests(digest: bytes) -> dict[str, Any]:
    return {"digests": [[DIGEST_ALGORITHMS[len(digest)], b64encode(digest).decode("ascii").rstrip("=")]]}


def _measurement(mkey: str, value: Mapping[str, Any]) -> dict[str, Any]:
    return {"key": {"type": "string", "value": mkey}, "value": dict(value)}


def _platform(reference: PlatformReference) -> dict[str, Any]:
    measurements = [_measurement(COMPONENT_KEY, _component(component)) for component in reference.components]
    if reference.config is not None:
        mask = reference.config_mask if reference.config_mask is not None else b"\xff" * len(reference.config)
        value = {"raw-value": _bytes(reference.config), "raw-value-mask": b64encode(mask).decode("ascii")}
        measurements.append(_measurement(CONFIG_KEY, value))
    return {"environment": _class(reference.implementation_id), "measurements": measurements}


def _component(component: ReferenceComponent) -> dict[str, Any]:
    if component.version is not None:
        raise InvalidDocument("endorsement.unwritable", "a software component has a version, on which Veraison's profile check fails")
    name = {} if component.measurement_type is None else {"name": component.measurement_type}
    return {"cryptokeys": [_bytes(component.signer_id)], **_digests(component.digest), **name}


def _realm(reference: RealmReference) -> dict[str, Any]:
    measurements = [_measurement(RIM_KEY, _digests(reference.rim))]
    measurements += [_measurement(f"cca.rem{number}", _digests(value)) for number, value in sorted(reference.rems.items())]
    if reference.rpv is not None:
        measurements.append(_measurement(RPV_KEY, {"raw-value": _bytes(reference.rpv)}))
    return {"environment": _class(reference.rim), "measurements": measurements}


def _anchor(anchor: TrustAnchor) -> dict[str, Any]:
    environment = {**_class(anchor.implementation_id), "instance": _bytes(anchor.instance_id, "ueid")}
    return {"environment": environment, "verification-keys": [{"type": "pkix-base64-key", "value": public_key_pem(anchor)}]}


# --- the old form -----------------------------------------------------------------------------------------------------


def legacy_comid(reference: RealmReference, template: Any = None) -> str:
    """Return the JSON that cca-realm-measurements writes with ``--endorsements-output``, two blanks deep and with a line end.

    ``template`` is the decoded file that its ``--endorsements-template`` takes: tag-identity and the environment of the first reference
    value come from it, its measurements are replaced, and other members are dropped, as there. REMs that are not given are zero. As
    there, every value stands as the 64 bytes of the register, zero padded, whatever the algorithm. Raises
    ``InvalidDocument("endorsement.malformed")`` for a template that is none.
    """
    identity, first, others = _template_parts(template)
    measured = {"raw-value": _bytes(reference.rpv or bytes(RPV_BYTES)), "integrity-registers": _registers(reference)}
    value = {"environment": first, "measurements": [{"value": measured}]}
    document = {"tag-identity": identity, "triples": {"reference-values": [value, *others]}}
    return json.dumps(document, indent=2) + "\n"


def _registers(reference: RealmReference) -> dict[str, Any]:
    algorithm = _NAMES[len(reference.rim)]
    values = {"rim": reference.rim, **{f"rem{number}": reference.rems.get(number, b"") for number in range(REM_COUNT)}}
    return {
        name: {"key-type": "text", "value": [f"{algorithm};{b64encode(value.ljust(_REGISTER_BYTES, bytes(1))).decode('ascii')}"]}
        for name, value in values.items()
    }


def _template_parts(template: Any) -> tuple[dict[str, Any], dict[str, Any], list[Any]]:
    """Return tag-identity, the first environment and the later reference values."""
    if template is None:
        empty = {"type": "", "value": ""}
        return {"id": "", "version": 0}, {"class": {"id": dict(empty), "vendor": ""}, "instance": dict(empty)}, []
    members = object_member(template, "the template", None)
    identity = object_member(members.get("tag-identity"), "tag-identity", None)
    triples = object_member(members.get("triples"), "triples", None)
    first, *others = list_member(triples.get("reference-values"), "reference-values") or [{}]
    environment = object_member(object_member(first, "a reference value", None).get("environment", {}), "environment", None)
    kept_class = object_member(environment.get("class", {}), "environment.class", None)
    kept = {
        "class": {name: kept_class[name] for name in ("id", "vendor") if name in kept_class},
        **({"instance": environment["instance"]} if "instance" in environment else {}),
    }
    return {name: identity[name] for name in ("id", "version") if name in identity}, kept, others
