"""Writing CoRIMs: byte for byte what Veraison's own tools wrote, and back again for anything else."""

import json
from uuid import UUID

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from kbs_rim.appraisal.comid_json import read_json_comid, read_json_corim
from kbs_rim.appraisal.comid_template import comid_document, legacy_comid
from kbs_rim.appraisal.corim import read_corim
from kbs_rim.appraisal.corim_document import Comid, Corim, Entity, Profile
from kbs_rim.appraisal.corim_writer import content_id, encode_corim
from kbs_rim.appraisal.endorsement_files import parse_endorsements, store_document
from kbs_rim.appraisal.endorsements import (
    Endorsements,
    PlatformReference,
    RealmReference,
    ReferenceComponent,
    TrustAnchor,
)
from kbs_rim.errors import InvalidDocument

AT = 1_790_000_000
GOOD = [
    "services-head/corim-cca-platform-valid.cbor",
    "services-head/corim-cca-realm-valid.cbor",
    "generated/realm-full-validity.unsigned.cbor",
    "generated/realm-rim-only.unsigned.cbor",
]


@pytest.mark.parametrize("name", GOOD)
def test_a_public_corim_read_and_written_again_is_the_same_bytes(vectors, name):
    data = (vectors / "corim" / name).read_bytes()
    assert encode_corim(read_corim(data).corim) == data


def test_a_corim_of_the_last_release_is_written_as_the_present_one(vectors):
    """The release wrote the profile as bare text; nothing else differs but the signer's id in its sample."""
    data = (vectors / "corim/services-v0.0.2608/corim-cca-realm-valid.cbor").read_bytes()
    assert encode_corim(read_corim(data).corim) == (vectors / "corim/services-head/corim-cca-realm-valid.cbor").read_bytes()


@pytest.mark.parametrize(
    ("kind", "parts"), [("platform", ("comid-cca-platform-refval", "comid-cca-platform-ta")), ("realm", ("comid-cca-realm-refval",))]
)
def test_veraisons_templates_give_veraisons_bytes(vectors, kind, parts):
    folder = vectors / "corim/services-head"
    template = read_json_corim(json.loads((folder / f"src/corim-cca-{kind}.json").read_bytes()))
    compiled = read_corim((folder / f"corim-cca-{kind}-valid.cbor").read_bytes()).corim
    comids = [read_json_comid(json.loads((folder / f"src/{part}.json").read_bytes())) for part in parts]
    assert {profile for profile, _ in comids} == {template.profile}
    # The published samples were compiled from a template whose corim-id has one digit more: text, no UUID.
    assert compiled.id == f"{template.id}1"
    made = Corim(id=compiled.id, profile=template.profile, comids=tuple(comid for _, comid in comids), entities=template.entities)
    assert encode_corim(made) == (folder / f"corim-cca-{kind}-valid.cbor").read_bytes()


@pytest.mark.parametrize("name", GOOD)
def test_json_comids_are_read_back(vectors, name):
    corim = read_corim((vectors / "corim" / name).read_bytes()).corim
    for comid in corim.comids:
        profile, again = read_json_comid(json.loads(json.dumps(comid_document(comid))))
        assert (profile, again) == (corim.profile, comid)


def test_platform_measurements_in_json_are_veraisons_own(vectors):
    source = json.loads((vectors / "corim/services-head/src/comid-cca-platform-refval.json").read_bytes())
    comid = read_corim((vectors / "corim/services-head/corim-cca-platform-valid.cbor").read_bytes()).corim.comids[0]
    written = comid_document(comid)
    assert written["triples"] == source["triples"]
    assert written["tag-identity"]["id"].upper() == source["tag-identity"]["id"]


# --- property tests ---------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(categories=("L", "N", "P")), min_size=1, max_size=20)
IDS = TEXT | st.uuids()
DIGEST = st.sampled_from((32, 48, 64)).flatmap(lambda size: st.binary(min_size=size, max_size=size))
ENTITIES = st.lists(
    st.builds(Entity, TEXT, st.none() | TEXT, st.lists(st.integers(0, 2), min_size=1, max_size=3).map(tuple)), max_size=2
).map(tuple)
KEYS = [ec.derive_private_key(7, curve).public_key() for curve in (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1())]
IMPLEMENTATION = st.binary(min_size=32, max_size=32)
REALMS = st.builds(RealmReference, DIGEST, st.dictionaries(st.integers(0, 3), DIGEST), st.none() | st.binary(min_size=64, max_size=64))
CONFIGS = st.just((None, None)) | st.binary(max_size=9).flatmap(
    lambda config: st.tuples(st.just(config), st.binary(min_size=len(config), max_size=len(config)))
)
PLATFORMS = st.builds(
    lambda identity, components, config: PlatformReference(identity, tuple(components), *config),
    IMPLEMENTATION,
    st.lists(st.builds(ReferenceComponent, DIGEST, DIGEST, st.none() | TEXT), min_size=1, max_size=3),
    CONFIGS,
)
ANCHORS = st.builds(TrustAnchor, IMPLEMENTATION, st.binary(min_size=32, max_size=32).map(lambda end: b"\x01" + end), st.sampled_from(KEYS))


def _content(profile):
    if profile is Profile.REALM:
        return st.builds(lambda realms: Endorsements(realms=tuple(realms)), st.lists(REALMS, min_size=1, max_size=3))
    both = st.tuples(st.lists(PLATFORMS, max_size=2), st.lists(ANCHORS, max_size=2)).filter(any)
    return both.map(lambda pair: Endorsements(platforms=tuple(pair[0]), trust_anchors=tuple(pair[1])))


def _corims(profile):
    comid = st.builds(
        Comid,
        tag_id=IDS,
        version=st.integers(0, 9),
        language=st.none() | TEXT,
        entities=ENTITIES,
        endorsements=_content(profile),
    )
    return st.builds(
        Corim,
        id=IDS,
        profile=st.just(profile),
        comids=st.lists(comid, min_size=1, max_size=3).map(tuple),
        entities=ENTITIES,
        not_before=st.none(),
        not_after=st.none() | st.integers(0, 1 << 35),
    )


@given(st.sampled_from((Profile.PLATFORM, Profile.REALM)).flatmap(_corims))
def test_what_is_written_is_read_as_the_same_and_written_as_the_same(corim):
    data = encode_corim(corim)
    found = read_corim(data)
    assert (found.corim, found.signature, found.payload) == (corim, None, data)
    assert encode_corim(found.corim) == data
    assert _sorted_as_cbor2_does(data) == data


def _sorted_as_cbor2_does(data):
    """cbor2's canonical form orders keys by length first, as RFC 7049 did: the same for keys below 24, which ours are."""

    def thawed(value):
        if isinstance(value, cbor2.CBORTag):
            inner = value.value
            return cbor2.CBORTag(value.tag, cbor2.dumps(thawed(raw(inner)), canonical=True) if value.tag == 506 else thawed(inner))
        if hasattr(value, "items"):
            return {key: thawed(item) for key, item in value.items()}
        return [thawed(item) for item in value] if isinstance(value, list | tuple) else value

    def raw(content):
        return cbor2.loads(content, tag_hook=lambda tag, *_: tag)

    times = cbor2.loads(data)
    return cbor2.dumps(_with_numbers(thawed(times)), canonical=True)


def _with_numbers(value):
    """cbor2 turns tag 1 into a datetime; turn it back."""
    if hasattr(value, "timestamp"):
        return cbor2.CBORTag(1, int(value.timestamp()))
    if isinstance(value, cbor2.CBORTag):
        return cbor2.CBORTag(value.tag, _with_numbers(value.value))
    if isinstance(value, dict):
        return {key: _with_numbers(item) for key, item in value.items()}
    return [_with_numbers(item) for item in value] if isinstance(value, list) else value


@given(_content(Profile.PLATFORM) | _content(Profile.REALM))
def test_the_json_form_says_the_same(endorsements):
    comid = Comid(tag_id=UUID(int=5), endorsements=endorsements)
    assert read_json_comid(json.loads(json.dumps(comid_document(comid))))[1] == comid


# --- ids --------------------------------------------------------------------------------------------------------------


def realm_corim(rim=b"\x11" * 32, **changes):
    comid = Comid(tag_id="web", endorsements=Endorsements(realms=(RealmReference(rim),)))
    return Corim(**{"id": "x", "profile": Profile.REALM, "comids": (comid,), **changes})


def test_the_content_id_follows_the_content_and_nothing_else():
    assert content_id(realm_corim()) == content_id(realm_corim(id="another"))
    others = [realm_corim(b"\x12" * 32), realm_corim(not_after=AT), realm_corim(entities=(Entity("me"),))]
    assert len({content_id(corim) for corim in [realm_corim(), *others]}) == 4
    assert content_id(realm_corim()).version == 8


# --- what cannot be written -------------------------------------------------------------------------------------------


def unwritable(corim, text):
    with pytest.raises(InvalidDocument) as error:
        encode_corim(corim)
    assert error.value.finding_id == "endorsement.unwritable"
    assert text in str(error.value)


def test_a_version_that_crashes_veraison_is_not_written():
    platform = PlatformReference(bytes(32), (ReferenceComponent(b"\x11" * 32, b"\x22" * 32, "BL", "1.0"),))
    comid = Comid(tag_id="p", endorsements=Endorsements(platforms=(platform,)))
    unwritable(Corim(id="x", profile=Profile.PLATFORM, comids=(comid,)), "version")
    with pytest.raises(InvalidDocument, match="version"):
        comid_document(comid)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"profile": Profile.PLATFORM}, "does not fit the profile for platforms"),
        ({"profile": Profile.IMAGE}, "does not fit the profile for images"),
        ({"not_before": 5}, "has an end"),
        ({"not_before": 5, "not_after": 4}, "ends before it begins"),
        ({"not_after": 1 << 40}, "out of range"),
        ({"dependents": 1}, "points to others"),
        ({"comids": (Comid(tag_id="empty"),)}, "nothing does not fit"),
    ],
)
def test_what_has_no_place(changes, text):
    unwritable(realm_corim(**changes), text)


# --- other formats ----------------------------------------------------------------------------------------------------


def test_a_ccatoken_store_is_read_back(vectors):
    source = (vectors / "tokens/endorsements/trustee-rvstore.json").read_bytes()
    held = parse_endorsements(source, at=AT)
    written = store_document(held)
    assert parse_endorsements(json.dumps(written).encode(), at=AT) == held
    with pytest.raises(InvalidDocument) as error:
        store_document(Endorsements(realms=(RealmReference(b"\x11" * 32, {1: b"\x22" * 32}),)))
    assert error.value.finding_id == "endorsement.unwritable"


def test_the_legacy_comid_is_the_template_with_other_measurements(vectors):
    template = json.loads((vectors / "tokens/endorsements/realm-measurements-comid-cca-realm.json").read_bytes())
    written = legacy_comid(RealmReference(b"\x11" * 32, {1: b"\x22" * 32}, b"\x33" * 64), template)
    document = json.loads(written)
    assert list(document) == ["tag-identity", "triples"]
    assert document["tag-identity"] == template["tag-identity"]
    (value,) = document["triples"]["reference-values"]
    assert value["environment"] == template["triples"]["reference-values"][0]["environment"]
    (measurement,) = value["measurements"]
    assert list(measurement["value"]) == ["raw-value", "integrity-registers"]
    registers = measurement["value"]["integrity-registers"]
    assert list(registers) == ["rim", "rem0", "rem1", "rem2", "rem3"]
    # 64 bytes whatever the algorithm: 32 of the RIM, then zeros.
    assert registers["rim"] == {
        "key-type": "text",
        "value": ["sha-256;EREREREREREREREREREREREREREREREREREREREREREAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=="],
    }
    assert registers["rem1"]["value"][0].startswith("sha-256;IiIi")
    assert registers["rem0"]["value"] == ["sha-256;" + "A" * 86 + "=="]
    assert written.startswith('{\n  "tag-identity": {\n    "id"')
    assert written.endswith("}\n")


def test_the_legacy_comid_without_a_template_has_no_identity():
    document = json.loads(legacy_comid(RealmReference(b"\x11" * 64)))
    assert document["tag-identity"] == {"id": "", "version": 0}
    registers = document["triples"]["reference-values"][0]["measurements"][0]["value"]["integrity-registers"]
    assert registers["rim"]["value"][0].startswith("sha-512;ERER")


@pytest.mark.parametrize("template", [{}, {"tag-identity": {}}, {"triples": {}}, [], {"tag-identity": {}, "triples": []}])
def test_a_legacy_template_without_identity_or_triples_is_refused(template):
    with pytest.raises(InvalidDocument) as error:
        legacy_comid(RealmReference(b"\x11" * 32), template)
    assert error.value.finding_id == "endorsement.malformed"
