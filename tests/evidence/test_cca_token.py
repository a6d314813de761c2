"""The CCA token: every public token, every claim, and the ways to build one that two readers read differently."""

import json
from pathlib import Path

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.cca_token import CcaToken, TokenForm, parse_cca_token, reassemble
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.evidence.token_collection import Collection
from kbs_rim.limits import Limits
from tests.token_forge import DROP, ES256, ES384, ES512, PAIRS, Signed, key, parts, token, wrap

VECTORS = Path(__file__).parent.parent / "vectors" / "tokens"
INDEX = {Path(entry["file"]).stem: entry for entry in json.loads((VECTORS / "index.json").read_text())}
VALID = sorted((VECTORS / "valid").glob("*.cbor"))

ODD = {
    "o01-unbound-fvp-original-emptyphdr": ("token.algorithm", "the platform token's protected header is empty: no algorithm"),
    "o02-platform-only-emptyphdr-floatversion": ("token.form", "a bare platform token"),
    "o03-legacy-907-mec-text": (None, "legacy profile; claim 44243 is unknown there and ignored"),
    "o04-legacy-907-instid-mecint": (None, "legacy profile; claims 256 and 44243 are unknown there and ignored"),
    "o05-legacy-907-example-mec-text": (None, "as o03"),
    "o06-907-unwrapped-cose": ("cbor.tag", "the COSE_Sign1 stands in the collection without a byte string around it"),
    "o07-veraison-mixed-profiles": ("token.profile-pair", "legacy platform with a realm of 2023"),
    "o08-veraison-mixed-profiles-raksha512": ("token.profile-pair", "legacy platform with a realm of 2023"),
    "o09-2023-907-hashlen-mismatch": ("token.hash-length", "sha-256 with a RIM of 64 bytes"),
    "o10-legacy-399-hashlen-mismatch": ("token.hash-length", "sha-256 with a RIM of 64 bytes"),
    "o11-legacy-399-badswhashname": ("token.hash-length", "sha-256 with a RIM of 64 bytes; the component's hash name alone would do"),
    "o12-platform-only-badswhashname": ("token.form", "a bare platform token"),
    "o13-parsec-bundle": ("token.form", "a Parsec bundle: a map without a tag"),
}


def refusal(data: bytes, limits: Limits | None = None) -> MalformedEvidence:
    with pytest.raises(MalformedEvidence) as caught:
        parse_cca_token(data, limits or Limits())
    return caught.value


def finding(data: bytes) -> str:
    return refusal(data).finding_id


# --- public tokens ---


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_valid_public_tokens(path):
    data, entry = path.read_bytes(), INDEX[path.stem]
    expected = json.loads((VECTORS / "expected" / f"{path.stem}.json").read_text())
    parsed = parse_cca_token(data)
    assert parsed.form.value == expected["tag"]
    assert f"{parsed.profile_pair.platform} + {parsed.profile_pair.realm}" == entry["profiles"]
    assert parsed.raw == data
    assert reassemble(parsed) == data
    check_platform(parsed, expected["platform"]["claims"])
    check_realm(parsed, expected["realm"]["claims"])
    for part, signed in ((parsed.platform, expected["platform"]), (parsed.realm, expected["realm"])):
        assert part.sign1.signature.hex() == signed["signature"]
        assert {str(label): value for label, value in part.sign1.protected.items()} == signed["protected"]


def check_platform(parsed: CcaToken, expected: dict) -> None:
    claims = parsed.platform.claims
    assert claims.profile == expected["265"]
    assert claims.challenge.hex() == expected["10"]
    assert claims.implementation_id.hex() == expected["2396"]
    assert claims.instance_id.hex() == expected["256"]
    assert claims.config.hex() == expected["2401"]
    assert claims.lifecycle == expected["2395"]
    assert claims.hash_algorithm == expected["2402"]
    assert claims.verification_service == expected.get("2400")
    assert claims.client_id is None
    assert not claims.extra
    seen = [
        {"1": c.measurement_type, "2": c.measurement_value.hex(), "4": c.version, "5": c.signer_id.hex(), "6": c.hash_algorithm}
        for c in claims.sw_components
    ]
    assert [{label: value for label, value in component.items() if value is not None} for component in seen] == expected["2399"]


def check_realm(parsed: CcaToken, expected: dict) -> None:
    claims = parsed.realm.claims
    assert claims.profile == expected.get("265")
    assert claims.challenge.hex() == expected["10"]
    assert claims.instance_id == (bytes.fromhex(expected["256"]) if "256" in expected else None)
    assert claims.personalization_value.hex() == expected["44235"]
    assert claims.hash_algorithm.value == expected["44236"]
    assert claims.public_key.hex() == expected["44237"]
    assert claims.initial_measurement.hex() == expected["44238"]
    assert [value.hex() for value in claims.extensible_measurements] == expected["44239"]
    assert claims.public_key_hash_algorithm.value == expected["44240"]
    assert claims.memory_encryption == {None: None, 1: "private", "private": "private"}[expected.get("44243")]
    assert claims.lfa is None
    assert not claims.extra


def test_every_odd_file_is_in_the_table():
    assert {path.stem for path in (VECTORS / "odd").glob("*.cbor")} == set(ODD)


@pytest.mark.parametrize(("name", "outcome"), ODD.items(), ids=list(ODD))
def test_odd_public_tokens(name, outcome):
    data = (VECTORS / "odd" / f"{name}.cbor").read_bytes()
    if outcome[0] is not None:
        assert finding(data) == outcome[0]
        return
    parsed = parse_cca_token(data)
    assert parsed.profile_pair.legacy
    assert parsed.realm.claims.memory_encryption is None
    assert parsed.realm.claims.instance_id is None
    assert 44243 in parsed.realm.claims.extra


@pytest.mark.parametrize(
    "path", sorted(VECTORS.glob("claims/*.cbor")) + sorted(VECTORS.glob("valid-platform/*.cbor")), ids=lambda path: path.stem
)
def test_parts_of_tokens_are_no_tokens(path):
    assert finding(path.read_bytes()) == "token.form"


# --- forged but good ---


@pytest.mark.parametrize("form", [399, 907])
@pytest.mark.parametrize("pair", PAIRS)
def test_every_pair_in_every_form(pair, form):
    parsed = parse_cca_token(token(pair, form))
    assert parsed.form is TokenForm(form)
    assert (parsed.profile_pair.platform, parsed.profile_pair.realm) == PAIRS[pair]
    assert parsed.profile_pair.legacy == (pair == "legacy")
    assert parsed.realm.rak.public_numbers() == key("rak").public_key().public_numbers()
    assert parsed.platform.claims.client_id == (1 if pair == "2024" else None)


@pytest.mark.parametrize("pair", ["2023", "2023-2024", "2024"])
def test_sha384_realms(pair):
    claims = parse_cca_token(token(pair, hash_name="sha-384")).realm.claims
    assert claims.hash_algorithm is HashAlgorithm.SHA384
    assert len(claims.initial_measurement) == 48


def test_the_legacy_profile_has_no_sha384():
    assert finding(token("legacy", hash_name="sha-384")) == "token.hash-algorithm"
    parse_cca_token(token("legacy", hash_name="sha-512"))


def test_members_in_the_other_order():
    platform, realm = (part.encode() for part in parts())
    swapped = cbor2.dumps(cbor2.CBORTag(907, {44241: [263, realm], 44234: [263, platform]}))
    parsed = parse_cca_token(swapped)
    assert parsed.raw == swapped
    assert reassemble(parsed) == wrap(907, platform, realm)


@pytest.mark.parametrize(("policy", "seen"), [(0, "shared"), (1, "private"), ("shared", "shared"), ("private", "private")])
@pytest.mark.parametrize("pair", ["2023", "2023-2024"])
def test_memory_encryption_in_both_spellings(pair, policy, seen):
    assert parse_cca_token(token(pair, realm={44243: policy})).realm.claims.memory_encryption == seen


def test_memory_encryption_may_be_absent_under_2023_only():
    assert parse_cca_token(token("2023")).realm.claims.memory_encryption is None
    assert finding(token("2023-2024", realm={44243: DROP})) == "token.claim-missing"


def test_a_draft_token_of_2024_without_instance_id():
    assert parse_cca_token(token(realm={256: DROP, 44243: "private"})).realm.claims.instance_id is None


@pytest.mark.parametrize("value", [0, 1])
def test_live_firmware_activation_policy(value):
    assert parse_cca_token(token(realm={44244: value})).realm.claims.lfa == value


def test_unknown_claims_are_ignored_whatever_they_hold():
    unknown = {1234567: 1.5, "vendor": {"x": [None, True, 1.1]}, -70000: b"", "text": "x"}
    parsed = parse_cca_token(token(realm=unknown, platform=unknown))
    assert parsed.realm.claims.extra["vendor"] == {"x": (None, True, 1.1)}
    assert parsed.platform.claims.extra[1234567] == 1.5


def test_the_wrong_label_of_autumn_2025_is_an_unknown_claim():
    assert parse_cca_token(token("2023", realm={44241: "private"})).realm.claims.memory_encryption is None


def test_certificates_in_the_platform_headers_are_ignored():
    platform, realm = parts()
    platform.unprotected = {33: [b"certificate", b"issuer"]}
    platform.protected = cbor2.dumps({1: ES384, 34: [-16, b"\x01" * 32]})
    assert parse_cca_token(wrap(907, platform.encode(), realm.encode())).platform.sign1.unprotected == {33: (b"certificate", b"issuer")}


@pytest.mark.parametrize(("algorithm", "curve"), [(ES256, ec.SECP256R1), (ES384, ec.SECP384R1), (ES512, ec.SECP521R1)])
def test_platform_algorithms(algorithm, curve):
    platform, realm = parts()
    platform = Signed(platform.claims, key("cpak", curve), algorithm)
    assert parse_cca_token(wrap(907, platform.encode(), realm.encode())).platform.sign1.protected == {1: algorithm}


def test_components_of_2024_may_say_more_and_older_ones_ignore_it():
    component = {2: b"\x55" * 32, 5: b"\x66" * 32, 7: True, 8: [b"\x01" * 32]}
    assert parse_cca_token(token("2024", platform={2399: [component]})).platform.claims.sw_components[0].version is None
    assert finding(token("2024", platform={2399: [component | {7: 1}]})) == "token.claim-type"
    parse_cca_token(token("2023", platform={2399: [component | {7: 1}]}))


def test_a_component_hash_name_that_is_no_hash():
    component = {2: b"\x55" * 64, 5: b"\x66" * 32, 6: "TF-M_SHA256MemPreXIP"}
    assert parse_cca_token(token(platform={2399: [component]})).platform.claims.sw_components[0].hash_algorithm == "TF-M_SHA256MemPreXIP"


# --- outer form ---


def test_members_of_the_other_form_are_refused():
    platform, realm = (part.encode() for part in parts())
    assert finding(wrap(399, platform, realm, members={44234: [263, platform]})) == "token.member"
    assert finding(wrap(907, platform, realm, members={44234: platform})) == "token.member"


@pytest.mark.parametrize(
    "record",
    [
        [263],
        [263, b"x", 1],
        [264, b"x"],
        [601, b"x"],
        [True, b"x"],
        ["application/eat+cwt", b"x"],
        [b"x", 263],
        [263, "x"],
        {263: b"x"},
        263,
    ],
    ids=str,
)
def test_records_of_another_shape(record):
    platform, realm = (part.encode() for part in parts())
    assert finding(wrap(907, platform, realm, members={44234: record})) == "token.member"


@pytest.mark.parametrize("label", [44234, 44241])
@pytest.mark.parametrize("form", [399, 907])
def test_a_missing_member(form, label):
    platform, realm = (part.encode() for part in parts())
    assert finding(wrap(form, platform, realm, members={label: DROP})) == "token.member"


@pytest.mark.parametrize("label", [0, 44242, 44251, 44252, 44253, 44254, 44255, 44256])
def test_an_unsupported_member(label):
    platform, realm = (part.encode() for part in parts())
    assert finding(wrap(907, platform, realm, members={label: [263, b"x"]})) == "token.member"


@pytest.mark.parametrize("form", [18, 61, 398, 600, 55799])
def test_another_tag(form):
    platform, realm = (part.encode() for part in parts())
    assert finding(wrap(form, platform, realm)) == "token.form"


def test_no_tag_two_tags_and_no_map():
    data = token()
    assert finding(data[3:]) == "token.form"
    assert finding(b"\xd9\x03\x8b" + data) == "cbor.tag"
    assert finding(b"\xd9\x03\x8b\x80") == "token.form"
    assert finding(b"") == "cbor.truncated"


def test_sizes():
    padded = token(platform={2401: b"\xcf" * 16000})
    assert refusal(padded).finding_id == "token.too-large"
    assert finding(token(realm={1234567: bytes(4000)})) == "token.too-large"
    assert finding(token(platform={1234567: bytes(9000)}, realm={1234567: bytes(2000)})[:-1]) == "cbor.truncated"
    parse_cca_token(token(platform={1234567: bytes(9000)}, realm={1234567: bytes(2000)}))
    assert refusal(token(), Limits(cbor_depth=2)).finding_id == "cbor.depth"
    assert refusal(token(), Limits(cbor_items=6)).finding_id == "cbor.items"


def test_values_that_cannot_be():
    """Constructors refuse what no parser makes."""
    parsed, other = parse_cca_token(token("2023")), parse_cca_token(token("legacy"))
    with pytest.raises(ValueError, match="do not belong together"):
        CcaToken(parsed.form, parsed.platform, other.realm, parsed.raw)
    with pytest.raises(ValueError, match="device claims"):
        Collection(TokenForm.EAT_COLLECTION, b"", b"", b"")
