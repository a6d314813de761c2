"""Endorsement files: the public ones are read, the bad ones refused with a reason, and nothing else ever happens."""

import datetime
import json

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from kbs_rim.appraisal.corim import parse_corim
from kbs_rim.appraisal.endorsement_files import parse_endorsements
from kbs_rim.appraisal.endorsements import (
    Endorsements,
    EndorsementStore,
    PlatformReference,
    RealmReference,
    ReferenceComponent,
    TrustAnchor,
)
from kbs_rim.errors import InvalidDocument
from kbs_rim.limits import Limits
from kbs_rim.realm.platform_identity import PlatformIdentity
from tests.ear_forge import public_jwk
from tests.token_forge import key, signature

AT = 1_790_000_000
PLATFORM_PROFILE, REALM_PROFILE = "tag:arm.com,2025:cca_platform#1.0.0", "tag:arm.com,2025:cca_realm#1.0.0"
IMPLEMENTATION, INSTANCE = bytes(32), b"\x01" + b"\x02" * 32


def refused(data, finding_id="endorsement.malformed", **options):
    with pytest.raises(InvalidDocument) as error:
        parse_endorsements(data, **{"at": AT, **options})
    assert error.value.finding_id == finding_id
    return str(error.value)


# --- public files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("release", "signer"), [("services-head", b"Sxyc\x07S"), ("services-v0.0.2608", b"012345")])
def test_veraisons_platform_corim(vectors, release, signer):
    file = parse_corim((vectors / "corim" / release / "corim-cca-platform-valid.cbor").read_bytes(), at=AT)
    (anchor,), (platform,) = file.trust_anchors, file.platforms
    assert (anchor.implementation_id, anchor.instance_id) == (IMPLEMENTATION, INSTANCE)
    pem = (vectors / "tokens/keys/cpak-veraison-p256.pem").read_bytes()
    assert anchor.key.public_numbers() == serialization.load_pem_public_key(pem).public_numbers()
    assert [component.measurement_type for component in platform.components] == ["BL", "M1", "M2", "M3"]
    assert platform.components[0].digest.hex() == "07060504030201000f0e0d0c0b0a090817161514131211101f1e1d1c1b1a1918"
    assert platform.components[0].signer_id.startswith(signer)
    assert platform.config == b"\x01\x02\x03"
    assert (file.realms, file.not_before, file.not_after) == ((), None, None)


@pytest.mark.parametrize("release", ["services-head", "services-v0.0.2608"])
def test_veraisons_realm_corim(vectors, release):
    file = parse_corim((vectors / "corim" / release / "corim-cca-realm-valid.cbor").read_bytes(), at=AT)
    (realm,) = file.realms
    assert realm.rim == b"\x43" * 64
    assert realm.rems == dict.fromkeys(range(4), b"\x43" * 64)
    assert realm.rpv == b"ADAD" * 16
    assert (file.platforms, file.trust_anchors) == ((), ())


def test_json_and_cbor_of_one_comid_say_the_same(vectors):
    folder = vectors / "corim/services-head"
    compiled = parse_endorsements((folder / "corim-cca-platform-valid.cbor").read_bytes(), at=AT)
    anchors = parse_endorsements((folder / "src/comid-cca-platform-ta.json").read_bytes(), at=AT)
    references = parse_endorsements((folder / "src/comid-cca-platform-refval.json").read_bytes(), at=AT)
    assert references.platforms == compiled.platforms
    assert anchors.trust_anchors[0].key.public_numbers() == compiled.trust_anchors[0].key.public_numbers()
    compiled = parse_endorsements((folder / "corim-cca-realm-valid.cbor").read_bytes(), at=AT)
    assert parse_endorsements((folder / "src/comid-cca-realm-refval.json").read_bytes(), at=AT).realms == compiled.realms


BAD = {
    "platform-bad-no-class": "environment.class is required for CCA Platform profile",
    "platform-bad-refval-cryptokeys": "the signer id in cryptokeys must be of type 'bytes'",
    "platform-bad-refval-mkey-string": "invalid mkey 'cca.bad-component' for CCA Platform profile",
    "platform-bad-refval-mkey": "invalid mkey: not of type 'string'",
    "platform-bad-refval-no-digests": "digests field is mandatory but not set",
    "platform-bad-refval-no-mkey": "mkey is mandatory but not set",
    "platform-bad-refval-no-raw-value": "raw-value is mandatory for cca.platform-config",
    "platform-bad-ta-cert": "the key of a trust anchor must be of type 'pkix-base64-key'",
    "platform-bad-ta-instance": "environment.instance must be of type 'ueid'",
    "platform-bad-ta-no-instance": "environment.instance is required for a CCA platform trust anchor",
    "realm-bad-instance": "RIM must be of type 'bytes'",
    "realm-bad-no-instance": "environment.class is required for CCA Realm profile",
    "realm-bad-no-integ-regs": "digests field is mandatory but not set",
    "realm-bad-no-raw-value": "raw-value is mandatory for cca.rpv",
    "realm-bad-no-rim": "RIM (cca.rim) measurement is mandatory but not found",
}


@pytest.mark.parametrize(("name", "text"), BAD.items())
def test_bad_corim(vectors, name, text):
    assert refused((vectors / f"corim/services-head/corim-cca-{name}.cbor").read_bytes()) == text


@pytest.mark.parametrize(("name", "text"), BAD.items())
def test_bad_comid_in_json(vectors, name, text):
    assert refused((vectors / f"corim/services-head/src/comid-cca-{name}.json").read_bytes()) == text


def test_every_bad_public_corim_is_tested(vectors):
    known = {f"corim-cca-{name}.cbor" for name in BAD} | {"corim-cca-platform-bad-refval-instance.cbor"}
    assert {path.name for path in (vectors / "corim/services-head").glob("*bad*")} == known


@pytest.mark.parametrize("name", ["corim-cca-platform-bad-refval-instance.cbor", "end-to-end-stale/cca-endorsements.cbor"])
def test_old_profile(vectors, name):
    refused((vectors / "corim/services-head" / name).read_bytes(), "endorsement.profile")


def test_ccatoken_stores(vectors):
    folder = vectors / "tokens/endorsements"
    file = parse_endorsements((folder / "trustee-tastore.json").read_bytes(), at=AT)
    pem = (vectors / "tokens/keys/cpak-tfm-p384.pem").read_bytes()
    assert file.trust_anchors[0].key.public_numbers() == serialization.load_pem_public_key(pem).public_numbers()
    file = parse_endorsements((folder / "trustee-rvstore.json").read_bytes(), at=AT)
    assert [component.measurement_type for component in file.platforms[0].components][:3] == ["RSE_BL1_2", "RSE_BL2", "RSE_S"]
    assert file.platforms[0].config == b"\xcf" * 4
    assert len(file.realms[0].rim) == 64
    file = parse_endorsements((folder / "rust-ccatoken-rv.json").read_bytes(), at=AT)
    assert file.platforms[1].components[1].version == "1.2"
    assert refused((folder / "rust-ccatoken-ta-02-bad.json").read_bytes()) == "the key of a trust anchor is not a point on its curve"


def test_simulated_platforms_are_understood():
    identity = PlatformIdentity.generate()
    for data in (identity.corim(), json.dumps(identity.comid_json()).encode()):
        file = parse_endorsements(data, at=AT)
        assert file.trust_anchors[0].instance_id == identity.instance_id
        assert file.trust_anchors[0].key.public_numbers() == identity.cpak.public_key().public_numbers()
        assert {component.digest for component in file.platforms[0].components} == {part.measurement for part in identity.components}
        assert file.platforms[0].config == identity.config


@pytest.mark.parametrize("name", ["realm-measurements-comid-cca-realm.json", "veraison-corim-cca-realm.json"])
def test_other_json_is_refused(vectors, name):
    refused((vectors / "tokens/endorsements" / name).read_bytes())


# --- CoRIMs of our own, and their damage ------------------------------------------------------------------------------


def realm_comid():
    measurements = [{0: "cca.rim", 1: {2: [[1, b"\x11" * 32]]}}, {0: "cca.rem2", 1: {2: [["sha-256", b"\x22" * 32]]}}]
    return {1: {0: "realm"}, 4: {0: [[{0: {0: cbor2.CBORTag(560, b"\x11" * 32)}}, measurements]]}}


def platform_comid():
    component = {0: "cca.software-component", 1: {2: [[1, b"\x11" * 32]], 13: [cbor2.CBORTag(560, b"\x22" * 32)]}}
    config = {0: "cca.platform-config", 1: {4: cbor2.CBORTag(560, b"\x01"), 5: b"\xff"}}
    environment = {0: {0: cbor2.CBORTag(560, IMPLEMENTATION)}}
    spki = key("cpak").public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()
    anchor = [{0: dict(environment[0]), 1: cbor2.CBORTag(550, INSTANCE)}, [cbor2.CBORTag(554, spki)]]
    return {1: {0: "platform"}, 4: {0: [[environment, [component, config]]], 3: [anchor]}}


def corim(comid, profile=None, **changes):
    profile = profile or (REALM_PROFILE if comid.get(1) == {0: "realm"} else PLATFORM_PROFILE)
    members = {0: "corim", 1: [cbor2.CBORTag(506, cbor2.dumps(comid))], 3: cbor2.CBORTag(32, profile)}
    members |= {int(name[1:]): value for name, value in changes.items()}
    return cbor2.dumps(cbor2.CBORTag(501, {number: value for number, value in members.items() if value is not None}))


def test_ours_are_good():
    assert parse_corim(corim(realm_comid()), at=AT).realms[0].rems == {2: b"\x22" * 32}
    assert parse_corim(corim(platform_comid()), at=AT).platforms[0].config == b"\x01"


def set_(comid, path, value):
    inner = comid
    for step in path[:-1]:
        inner = inner[step]
    if value is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return comid


REFERENCE, FIRST = (4, 0, 0), (4, 0, 0, 1, 0)
ANCHOR = (4, 3, 0)


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        ((4,), {}, "no triples"),
        ((4,), None, "not a map"),
        ((1,), None, "tag-identity"),
        ((3,), [[{0: "x"}, 0]], "supplements or replaces"),
        ((4, 1), [], "not read here"),
        ((4, 3), [], "not read here"),
        ((4, 0), [], "non-empty array"),
        ((4, 0), [[{}]], "environment and a list"),
        (REFERENCE, [{}, []], "non-empty array"),
        ((*REFERENCE, 0, 0, 1), "Acme", "environment.class has a member"),
        ((*REFERENCE, 0, 0, 0), None, "class-id is required"),
        ((*REFERENCE, 0, 1), cbor2.CBORTag(550, INSTANCE), "environment of realm reference values"),
        ((*REFERENCE, 0, 0, 0), cbor2.CBORTag(560, b"\x11" * 31), "is not the RIM"),
        ((*REFERENCE, 0, 0, 0), cbor2.CBORTag(560, b"\x12" * 32), "is not the RIM"),
        ((*REFERENCE, 0, 0, 0), b"\x11" * 32, "RIM must be of type 'bytes'"),
        ((*FIRST, 1, 2), [[1, b"\x11" * 32]] * 2, "exactly one entry"),
        ((*FIRST, 1, 2), [], "non-empty array"),
        ((*FIRST, 1, 2), [[1, b"\x11" * 33]], "32, 48, or 64"),
        ((*FIRST, 1, 2), [[8, b"\x11" * 32]], "another length"),
        ((*FIRST, 1, 2), [[2, b"\x11" * 32]], "unknown"),
        ((*FIRST, 1, 2), [["md5", b"\x11" * 32]], "unknown"),
        ((*FIRST, 1, 2), [[True, b"\x11" * 32]], "unknown"),
        ((*FIRST, 1, 2), [b"\x11" * 32], "an algorithm and a byte string"),
        ((*FIRST, 1, 2), [[1, "11" * 32]], "an algorithm and a byte string"),
        ((*FIRST, 1, 9), 1, "not read here"),
        ((*FIRST, 1), None, "is not a map"),
        ((*FIRST, 2), [b"k"], "a measurement has a member"),
        (FIRST, {0: "cca.rpv", 1: {4: cbor2.CBORTag(560, bytes(32))}}, "RIM (cca.rim)"),
        ((*REFERENCE, 1, 1), {0: "cca.rpv", 1: {4: cbor2.CBORTag(560, bytes(32))}}, "an RPV has 64 bytes"),
        ((*FIRST, 0), "cca.rem4", "invalid mkey 'cca.rem4'"),
        ((*FIRST, 0), "cca.rem2", "stands twice"),
    ],
)
def test_bad_realm(path, value, text):
    assert text in refused(corim(set_(realm_comid(), path, value)))


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        ((*REFERENCE, 0, 0, 0), cbor2.CBORTag(560, b"\0" * 31), "32 bytes"),
        ((*REFERENCE, 0, 0, 3), 1, "environment.class has a member"),
        ((*REFERENCE, 0, 2), b"g", "environment of platform reference values"),
        ((*FIRST, 1, 13), None, "cryptokeys (the signer id) is mandatory"),
        ((*FIRST, 1, 13), [cbor2.CBORTag(560, b"\x22" * 32)] * 2, "exactly one signer id"),
        ((*FIRST, 1, 13), [cbor2.CBORTag(560, b"\x22" * 31)], "signer id"),
        ((*FIRST, 1, 11), 7, "not text"),
        ((*FIRST, 1, 0), "1.0", "version is not a map"),
        ((*FIRST, 1, 0), {0: 1}, "not text"),
        ((*FIRST, 1, 1), 7, "not read here"),
        ((*FIRST, 0), "cca.platform-config", "raw-value is mandatory"),
        ((*REFERENCE, 1, 1, 1, 5), None, "raw-value-mask"),
        ((*REFERENCE, 1, 1, 1, 5), b"\xff\xff", "raw-value-mask"),
        ((*REFERENCE, 1, 1, 1, 4), b"\x01", "must be of type 'bytes'"),
        ((*ANCHOR, 0, 1), cbor2.CBORTag(550, b"\x02" * 33), "instance id has 33 bytes"),
        ((*ANCHOR, 0, 2), b"g", "environment has a member"),
        ((*ANCHOR, 1), [cbor2.CBORTag(554, "x")] * 2, "exactly one key"),
        ((*ANCHOR, 1), [cbor2.CBORTag(554, "x")], "one PEM public key"),
        ((*ANCHOR, 1), [cbor2.CBORTag(554, "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----")], "not a readable public key"),
    ],
)
def test_bad_platform(path, value, text):
    assert text in refused(corim(set_(platform_comid(), path, value)))


def test_platform_without_components_or_with_two_configurations():
    comid = platform_comid()
    config = comid[4][0][0][1][1]
    assert "at least one" in refused(corim(set_(comid, (*REFERENCE, 1), [config])))
    component = comid[4][0][0][1][0]
    assert "stands twice" in refused(corim(set_(comid, (*REFERENCE, 1), [component, config, config])))


@pytest.mark.parametrize("curve", [ec.SECP224R1, ec.SECP256K1])
def test_trust_anchor_on_another_curve(curve):
    pem = key("odd", curve).public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()
    assert "P-256, P-384 or P-521" in refused(corim(set_(platform_comid(), (*ANCHOR, 1), [cbor2.CBORTag(554, pem)])))


def test_two_keys_in_one_pem():
    pem = platform_comid()[4][3][0][1][0].value
    assert "nothing else" in refused(corim(set_(platform_comid(), (*ANCHOR, 1), [cbor2.CBORTag(554, pem + pem)])))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"_0": None}, "corim-id"),
        ({"_0": b"short"}, "corim-id"),
        ({"_1": None}, "list of tags"),
        ({"_1": [cbor2.CBORTag(505, b"\xa0")]}, "other than a CoMID"),
        ({"_1": [cbor2.CBORTag(506, b"\x00")]}, "not a map"),
        ({"_1": [cbor2.CBORTag(506, b"\xa1")]}, "malformed CBOR"),
        ({"_4": 7}, "not a map"),
        ({"_4": {}}, "tag 1"),
        ({"_4": {1: cbor2.CBORTag(1, 1.5)}}, "malformed CBOR"),
        ({"_4": {1: cbor2.CBORTag(1, True)}}, "tag 1"),
        ({"_4": {1: cbor2.CBORTag(1, -1)}}, "out of range"),
        ({"_4": {1: cbor2.CBORTag(1, 1 << 60)}}, "out of range"),
        ({"_6": 7}, "not read here"),
    ],
)
def test_bad_corim_map(changes, text):
    assert text in refused(corim(realm_comid(), **changes))


@pytest.mark.parametrize("profile", [None, 7, cbor2.CBORTag(32, "tag:example,2025:x"), cbor2.CBORTag(111, b"\x2b")])
def test_profile(profile):
    refused(corim(realm_comid(), _3=profile), "endorsement.profile")


def test_profile_decides_how_triples_are_read():
    assert "for CCA Platform profile" in refused(corim(realm_comid(), PLATFORM_PROFILE, _0="x"))


def test_duplicate_keys_and_trailing_bytes_and_depth():
    good = corim(realm_comid())
    assert "trailing" in refused(good + b"\0") or "follow" in refused(good + b"\0")
    map_ = b"\xa4\x00\x61x\x00\x61y\x01\x80\x03\x60"
    assert "same key twice" in refused(b"\xd9\x01\xf5" + map_)
    assert "deeply" in refused(b"\xd9\x01\xf5" + b"\x81" * 60 + b"\x00")
    refused(b"\xd9\x01\xf4\xd9\x01\xf6" + good)  # the old prefix of tags 500 and 502
    refused(b"")
    assert "too large" in refused(good, limits=Limits(endorsement_bytes=10))


# --- signed CoRIMs ----------------------------------------------------------------------------------------------------


def certificate(subject, issuer, issuer_key, *, ca, days=3650, usage=True):
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)]))
    builder = builder.issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]))
    builder = builder.public_key(key(subject, ec.SECP256R1).public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=days))
    builder = builder.add_extension(x509.BasicConstraints(ca, None), True)
    ski = x509.SubjectKeyIdentifier.from_public_key(key(subject, ec.SECP256R1).public_key())
    aki = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    builder = builder.add_extension(ski, False).add_extension(aki, False)
    builder = builder.add_extension(x509.KeyUsage(True, False, False, False, False, ca and usage, ca and usage, False, False), True)
    return builder.sign(issuer_key, hashes.SHA256())


def chain(**options):
    root_key, middle_key = key("root", ec.SECP256R1), key("middle", ec.SECP256R1)
    root = certificate("root", "root", root_key, ca=True)
    middle = certificate("middle", "root", root_key, ca=options.get("middle_ca", True), usage=options.get("usage", True))
    leaf = certificate("leaf", "middle", middle_key, ca=False, days=options.get("days", 3650))
    return root, middle, leaf


def der(item):
    return item.public_bytes(serialization.Encoding.DER)


def signed(payload, certificates, *, signer="leaf", unprotected=None, meta=None, **header):
    protected = {1: -7, 3: "application/rim+cbor", 8: cbor2.dumps(meta or {0: {0: "Acme"}}), 33: certificates}
    protected = {label: value for label, value in {**protected, **{int(n[1:]): v for n, v in header.items()}}.items() if value is not None}
    raw = cbor2.dumps(protected)
    return cbor2.dumps(cbor2.CBORTag(18, [raw, unprotected or {}, payload, signature(key(signer, ec.SECP256R1), -7, raw, payload)]))


def test_the_sample_chain(vectors):
    root = x509.load_pem_x509_certificate((vectors / "corim/keys/corimCA.crt").read_bytes())
    data = (vectors / "corim/generated/realm-full-validity.signed.cose").read_bytes()
    plain = (vectors / "corim/generated/realm-full-validity.unsigned.cbor").read_bytes()
    file = parse_corim(data, roots=[root], at=AT)
    assert file == parse_corim(plain, at=AT)
    assert (file.not_before, file.not_after) == (1767225600, 2082758400)
    assert "no root certificate" in refused(data, "endorsement.signature")
    assert "given root" in refused(data, "endorsement.signature", roots=[chain()[0]])
    assert "given root" in refused(data, "endorsement.signature", roots=[root], at=4_000_000_000)


def test_signed_by_our_own_chain():
    root, middle, leaf = chain()
    data = signed(corim(realm_comid()), [der(leaf), der(middle)])
    assert parse_corim(data, roots=[root], at=AT).realms
    short = certificate("leaf", "root", key("root", ec.SECP256R1), ca=False)
    assert parse_corim(signed(corim(realm_comid()), der(short)), roots=[root], at=AT).realms


def test_changed_after_signing():
    root, middle, leaf = chain()
    data = signed(corim(realm_comid()), [der(leaf), der(middle)])
    assert "does not verify" in refused(data.replace(b"\x22" * 32, b"\x23" * 32), "endorsement.signature", roots=[root])


def test_signed_by_another_key_than_the_certificates():
    root, middle, leaf = chain()
    data = signed(corim(realm_comid()), [der(leaf), der(middle)], signer="other")
    assert "does not verify" in refused(data, "endorsement.signature", roots=[root])


@pytest.mark.parametrize("options", [{"middle_ca": False}, {"usage": False}, {"days": 30}])
def test_chains_that_prove_nothing(options):
    root, middle, leaf = chain(**options)
    assert "given root" in refused(signed(corim(realm_comid()), [der(leaf), der(middle)]), "endorsement.signature", roots=[root])


@pytest.mark.parametrize("certificates", [None, [], b"", b"junk", [b"junk"], "text", [1], [b"\x30\x00"] * 9])
def test_no_usable_certificate(certificates):
    root, _, _ = chain()
    refused(signed(corim(realm_comid()), certificates), "endorsement.signature", roots=[root])


def test_certificate_in_the_unprotected_header_is_not_read():
    root, middle, leaf = chain()
    data = signed(corim(realm_comid()), None, unprotected={33: [der(leaf), der(middle)]})
    assert "protected header" in refused(data, "endorsement.signature", roots=[root])


def test_signature_outside_its_own_validity():
    root, middle, leaf = chain()
    data = signed(corim(realm_comid()), [der(leaf), der(middle)], meta={0: {0: "Acme"}, 1: {1: cbor2.CBORTag(1, AT - 1)}})
    refused(data, "endorsement.validity", roots=[root])


@pytest.mark.parametrize("header", [{"_8": None}, {"_8": b"\x01"}, {"_3": "text/plain"}, {"_2": [3]}])
def test_other_headers(header):
    root, middle, leaf = chain()
    refused(signed(corim(realm_comid()), [der(leaf), der(middle)], **header), roots=[root])


def test_signature_algorithm():
    root, middle, leaf = chain()
    data = signed(corim(realm_comid()), [der(leaf), der(middle)], _1=-37)
    assert "algorithm" in refused(data, "endorsement.signature", roots=[root])


def test_a_signed_corim_does_not_nest():
    root, middle, leaf = chain()
    inner = signed(corim(realm_comid()), [der(leaf), der(middle)])
    assert "not a CoRIM" in refused(signed(inner, [der(leaf), der(middle)]), roots=[root])


# --- JSON of the wrong shape ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "document",
    [
        [],
        [7],
        [{}],
        {"platform": 7},
        {"platform": [{}]},
        {"platform": [], "other": []},
        {"realm": [{"initial-measurement": "zz"}]},
        {"realm": [{"initial-measurement": "00"}]},
        {"realm": [{"initial-measurement": "00" * 32, "extensible-measurements": ["00" * 32] * 5}]},
        {"realm": [{"initial-measurement": "00" * 32, "personalization-value": "00"}]},
        {"triples": 7},
        {"triples": {}},
        {"triples": {"reference-values": 7}},
        {"triples": {"dependency-triples": []}},
        {"tag-identity": {}, "linked-tags": [], "triples": {"reference-values": []}},
        {"tag-identity": {}, "triples": {"reference-values": [{"environment": {"group": 1}, "measurements": [{}]}]}},
        [{"instance-id": "01" * 33, "implementation-id": "00" * 32, "pkey": {"kty": "OKP", "crv": "Ed25519", "x": "A" * 43}}],
        [{"instance-id": "02" * 33, "implementation-id": "00" * 32, "pkey": public_jwk(key("cpak"))}],
        [{"instance-id": "01" * 33, "implementation-id": "00" * 32, "pkey": public_jwk(key("cpak")) | {"d": "AA"}}],
        "text",
        7,
    ],
)
def test_json_of_the_wrong_shape(document):
    refused(json.dumps(document).encode())


def test_duplicate_json_keys():
    refused(b'{"platform": [], "platform": []}')


def test_digest_spelled_as_one_text(vectors):
    text = (vectors / "corim/services-head/src/comid-cca-realm-refval.json").read_text()
    document = json.loads(text)
    for measurement in document["triples"]["reference-values"][0]["measurements"]:
        if "digests" in measurement["value"]:
            measurement["value"]["digests"] = [f"sha-512;{measurement['value']['digests'][0][1]}"]
    assert parse_endorsements(json.dumps(document).encode(), at=AT) == parse_endorsements(text.encode(), at=AT)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data):
    try:
        assert parse_endorsements(data, at=AT) is not None
    except InvalidDocument as error:
        seen = error.finding_id
    else:
        return
    assert seen.startswith("endorsement.")


@given(st.data())
def test_any_damage_to_a_corim_is_read_or_refused(data):
    good = bytearray(corim(platform_comid()))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        parse_endorsements(bytes(good), at=AT)
    except InvalidDocument as error:
        seen = error.finding_id
    else:
        return
    assert seen.startswith("endorsement.")


@given(st.data())
def test_any_member_of_a_comid_in_json_may_be_anything(data):
    identity = _IDENTITY.comid_json()
    inner, paths = identity, []

    def walk(value, path):
        paths.append(path)
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for step, item in items:
            walk(item, (*path, step))

    walk(identity, ())
    *steps, last = data.draw(st.sampled_from([path for path in paths if path]))
    for step in steps:
        inner = inner[step]
    inner[last] = data.draw(st.none() | st.integers() | st.text(max_size=8) | st.just([]) | st.just({}) | st.just([7]) | st.just({"a": 1}))
    try:
        parse_endorsements(json.dumps(identity).encode(), at=AT)
    except InvalidDocument as error:
        seen = error.finding_id
    else:
        return
    assert seen.startswith("endorsement.")


_IDENTITY = PlatformIdentity.generate()

# --- looking up -------------------------------------------------------------------------------------------------------


def anchor(name="cpak", instance=INSTANCE):
    return TrustAnchor(IMPLEMENTATION, instance, key(name).public_key())


def test_lookup_by_both_ids():
    store = EndorsementStore([Endorsements(trust_anchors=(anchor(),))])
    assert store.trust_anchor(IMPLEMENTATION, INSTANCE, AT) is not None
    assert store.trust_anchor(b"\x01" * 32, INSTANCE, AT) is None
    assert store.trust_anchor(IMPLEMENTATION, b"\x01" + b"\x03" * 32, AT) is None


def test_validity_is_judged_at_lookup():
    reference = PlatformReference(IMPLEMENTATION, (ReferenceComponent(bytes(32), bytes(32)),))
    file = Endorsements(
        trust_anchors=(anchor(),), platforms=(reference,), realms=(RealmReference(bytes(32)),), not_before=AT - 10, not_after=AT + 10
    )
    store = EndorsementStore([file])
    for at, found in ((AT - 11, False), (AT - 10, True), (AT + 10, True), (AT + 11, False)):
        assert (store.trust_anchor(IMPLEMENTATION, INSTANCE, at) is not None) is found
        assert bool(store.platform_references(IMPLEMENTATION, at)) is found
        assert bool(store.realm_references(bytes(32), at)) is found
    assert store.sizes == (1, 1, 1)


def test_two_keys_for_one_platform():
    with pytest.raises(InvalidDocument) as error:
        EndorsementStore([Endorsements(trust_anchors=(anchor(),)), Endorsements(trust_anchors=(anchor("other"),))])
    assert error.value.finding_id == "endorsement.duplicate"
    EndorsementStore([Endorsements(trust_anchors=(anchor(),))] * 2)


@pytest.mark.parametrize(
    "make",
    [
        lambda: TrustAnchor(bytes(31), INSTANCE, key("cpak").public_key()),
        lambda: TrustAnchor(IMPLEMENTATION, bytes(33), key("cpak").public_key()),
        lambda: ReferenceComponent(bytes(20), bytes(32)),
        lambda: ReferenceComponent(bytes(32), bytes(20)),
        lambda: PlatformReference(IMPLEMENTATION, ()),
        lambda: PlatformReference(bytes(31), (ReferenceComponent(bytes(32), bytes(32)),)),
        lambda: RealmReference(bytes(20)),
        lambda: RealmReference(bytes(32), {4: bytes(32)}),
        lambda: RealmReference(bytes(32), {0: bytes(20)}),
        lambda: RealmReference(bytes(32), {}, bytes(32)),
    ],
)
def test_values_that_cannot_be(make):
    with pytest.raises(ValueError, match=r"bytes|numbered|component"):
        make()
