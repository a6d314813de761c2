"""The claim tables: what is missing, mistyped or out of range, per profile; and the device claims."""

import cbor2
import pytest

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.cca_token import parse_cca_token, reassemble
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from tests import token_forge as forge
from tests.token_forge import DROP, Signed, key, parts, token, wrap


def finding(data: bytes) -> str:
    with pytest.raises(MalformedEvidence) as caught:
        parse_cca_token(data)
    return caught.value.finding_id


def refusal(data: bytes) -> MalformedEvidence:
    with pytest.raises(MalformedEvidence) as caught:
        parse_cca_token(data)
    return caught.value


@pytest.mark.parametrize("label", [265, 10, 2396, 256, 2401, 2395, 2399, 2402, 2394])
def test_missing_platform_claims(label):
    assert finding(token("2024", platform={label: DROP})) == "token.claim-missing"


@pytest.mark.parametrize("label", [10, 44235, 44236, 44237, 44238, 44239, 44240, 44243])
def test_missing_realm_claims(label):
    assert finding(token("2024", realm={label: DROP})) == "token.claim-missing"


PLATFORM_WRONG = [
    (265, 1, "token.claim-type"), (265, "http://arm.com/CCA-SSD/1.0.1", "token.profile"),
    (265, "TAG:arm.com,2023:cca_platform#1.0.0", "token.profile"),
    (265, "tag:arm.com,2026:cca_platform#2.0.0", "token.profile"),
    (10, [bytes(32)], "token.claim-type"), (10, "x" * 32, "token.claim-type"), (10, bytes(31), "token.claim-value"),
    (2396, bytes(64), "token.claim-value"), (2396, bytes(33), "token.claim-value"),
    (256, b"\x02" + bytes(32), "token.claim-value"), (256, b"\x01" * 32, "token.claim-value"),
    (2401, b"", "token.claim-value"), (2401, "x", "token.claim-type"),
    (2395, True, "token.claim-type"), (2395, 12291.0, "token.claim-type"), (2395, b"\x30\x03", "token.claim-type"),
    (2399, [], "token.claim-value"), (2399, {}, "token.claim-type"), (2399, [[]], "token.claim-type"),
    (2399, None, "token.claim-type"),
    (2400, b"https", "token.claim-type"),
    (2402, "sha-224", "token.hash-algorithm"), (2402, "SHA-256", "token.hash-algorithm"), (2402, -16, "token.claim-type"),
    (2394, 2, "token.claim-value"), (2394, True, "token.claim-type"), (2394, 1.0, "token.claim-type"),
    (2403, b"", "token.claim-value"), (2404, [], "token.claim-value"), (2404, [{2: b"x"}], "token.claim-value"),
    (2405, [1], "token.claim-type"),
    (2406, 5, "token.claim-type"),
]  # fmt: skip


@pytest.mark.parametrize(("label", "value", "expected"), PLATFORM_WRONG)
def test_wrong_platform_claims(label, value, expected):
    assert finding(token("2024", platform={label: value})) == expected


@pytest.mark.parametrize("value", [0x0100, 0x0FFF, 0x1100, 0x2FFF, 0x3100, 0x6100, 0x7000, 0x10000, 0x13003, -1, 1 << 63])
def test_undefined_life_cycle_values(value):
    assert finding(token(platform={2395: value})) == "token.claim-value"


@pytest.mark.parametrize("value", [0x0000, 0x00FF, 0x1000, 0x20FF, 0x3000, 0x30FF, 0x4003, 0x5000, 0x60FF])
def test_defined_life_cycle_values(value):
    assert parse_cca_token(token(platform={2395: value})).platform.claims.lifecycle == value


GOOD_COMPONENT = {1: "RMM", 2: b"\x55" * 32, 4: "1", 5: b"\x66" * 32, 6: "sha-256"}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({2: DROP}, "token.claim-missing"), ({5: DROP}, "token.claim-missing"), ({1: b"RMM"}, "token.claim-type"),
        ({4: 1.2}, "token.claim-type"),
        ({6: -16}, "token.claim-type"), ({2: bytes(31)}, "token.claim-value"), ({5: bytes(16)}, "token.claim-value"),
        ({2: "x"}, "token.claim-type"),
        ({2: bytes(64)}, "token.hash-length"), ({2: bytes(64), 6: DROP}, "token.hash-length"),
        ({6: "sha-512"}, "token.hash-length"),
    ],
)  # fmt: skip
def test_wrong_components(change, expected):
    assert finding(token(platform={2399: [GOOD_COMPONENT, forge.changed(GOOD_COMPONENT, change)]})) == expected


def test_a_component_hash_overrides_the_platform_hash():
    component = forge.changed(GOOD_COMPONENT, {2: bytes(64), 6: "sha-512"})
    assert len(parse_cca_token(token(platform={2399: [component]})).platform.claims.sw_components[0].measurement_value) == 64


REALM_WRONG = [
    (265, 1, "token.claim-type"), (265, "tag:arm.com,2026:realm#2.0.0", "token.profile"), (265, "", "token.profile"),
    (10, bytes(63), "token.claim-value"), (10, bytes(32), "token.claim-value"), (10, bytes(65), "token.claim-value"),
    (10, [bytes(64)], "token.claim-type"),
    (10, True, "token.claim-type"),
    (256, bytes(33), "token.claim-value"), (256, b"\x01" * 32, "token.claim-value"),
    (44235, bytes(32), "token.claim-value"), (44235, "x" * 64, "token.claim-type"),
    (44236, "sha-1", "token.hash-algorithm"), (44236, "SHA-256", "token.hash-algorithm"),
    (44236, "sha256", "token.hash-algorithm"),
    (44236, 0, "token.claim-type"), (44240, "sha-224", "token.hash-algorithm"), (44240, None, "token.claim-type"),
    (44237, "x", "token.claim-type"), (44237, b"", "token.claim-value"), (44237, {1: 2}, "token.claim-type"),
    (44238, bytes(48), "token.hash-length"), (44238, bytes(64), "token.hash-length"), (44238, bytes(33), "token.claim-value"),
    (44239, [bytes(32)] * 3, "token.claim-value"), (44239, [bytes(32)] * 5, "token.claim-value"),
    (44239, [bytes(32)] * 3 + [bytes(64)], "token.hash-length"),
    (44239, [bytes(32)] * 3 + ["x"], "token.claim-type"), (44239, bytes(128), "token.claim-type"),
    (44243, 2, "token.claim-value"), (44243, "Private", "token.claim-value"), (44243, True, "token.claim-type"),
    (44243, b"private", "token.claim-type"),
    (44244, 2, "token.claim-value"), (44244, False, "token.claim-type"), (44244, "0", "token.claim-type"),
]  # fmt: skip


@pytest.mark.parametrize(("label", "value", "expected"), REALM_WRONG)
def test_wrong_realm_claims(label, value, expected):
    assert finding(token("2024", realm={label: value})) == expected


def test_tags_inside_claims_are_refused():
    assert finding(token(realm={1234567: cbor2.CBORTag(35, "(a+)+$")})) == "cbor.tag"
    assert finding(token(realm={1234567: 1 << 64})) == "cbor.tag"


def test_a_text_claim_is_not_shown_in_the_error():
    error = refusal(token("2024", realm={44236: "secret-name"}))
    assert "secret-name" not in str(error)
    assert "secret-name" not in f"{error.seen} {error.expected}"


@pytest.mark.parametrize(
    ("platform", "realm"),
    [
        (forge.LEGACY, forge.REALM_2023), (forge.LEGACY, forge.REALM_2024), (forge.PLATFORM_2023, None),
        (forge.PLATFORM_2024, None),
        (forge.PLATFORM_2024, forge.REALM_2023),
    ],
)  # fmt: skip
def test_pairs_of_profiles_that_do_not_belong_together(platform, realm):
    """Choosing the profile would choose whether claim 44237 is a point or a COSE_Key."""
    realm_signed = Signed(forge.realm_claims(realm), key("rak"))
    platform_signed = Signed(forge.platform_claims(platform, forge.bound(realm_signed.claims)), key("cpak"))
    assert finding(wrap(907, platform_signed.encode(), realm_signed.encode())) == "token.profile-pair"


# --- devices ---


DEVICE = {1: b"\x01" * 32, 2: b"\x02" * 32, 4: True, 5: False}
DEVICES = {265: "tag:arm.com,2025:cca_device#2.0.0", 44259: [DEVICE]}


def device_token(claims: object = None, *, form: int = 907, named: object = None, sent: bool = True, pair: str = "2024") -> bytes:
    raw = cbor2.dumps(DEVICES if claims is None else claims)
    hash_ = HashAlgorithm.SHA256.digest(raw) if named is None else named
    platform, realm = (part.encode() for part in parts(pair, realm={44257: hash_}))
    member = [601, raw] if form == 907 else raw
    return wrap(form, platform, realm, members={44258: member} if sent else {})


def test_devices_that_the_realm_names():
    parsed = parse_cca_token(device_token())
    assert parsed.devices is not None
    assert parsed.devices.devices[0][1] == b"\x01" * 32
    assert reassemble(parsed) == parsed.raw


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (device_token(sent=False), "token.devices"), (device_token(named=DROP), "token.devices"),
        (device_token(named=bytes(32)), "token.devices"),
        (device_token(named=bytes(64)), "token.hash-length"), (device_token(pair="2023"), "token.devices"),
        (device_token(form=399), "token.member"),
        (device_token([1]), "token.devices"), (device_token({265: "x", 44259: [DEVICE]}), "token.claim-value"),
        (device_token({44259: [DEVICE]}), "token.claim-missing"), (device_token(DEVICES | {44259: []}), "token.claim-value"),
        (device_token(DEVICES | {44259: [DEVICE | {4: 1}]}), "token.claim-type"),
    ],
)  # fmt: skip
def test_devices_that_do_not_fit(data, expected):
    assert finding(data) == expected
