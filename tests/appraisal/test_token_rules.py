"""Step 2: genuine, bound, fresh; with every public token and with forgeries by our own keys."""

import json
from pathlib import Path

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from hypothesis import given
from hypothesis import strategies as st

from kbs_rim.appraisal.token_rules import judge_platform_claims, judge_platform_signature, judge_realm_token, lifecycle_state
from kbs_rim.appraisal.workload import Lifecycle
from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.cca_token import CcaToken, parse_cca_token
from kbs_rim.evidence.cose import ALGORITHMS
from tests import token_forge as forge
from tests.token_forge import CHALLENGE, ES256, ES384, PAIRS, Signed, key, parts, token, wrap

VECTORS = Path(__file__).parent.parent / "vectors" / "tokens"
INDEX = {Path(entry["file"]).stem: entry for entry in json.loads((VECTORS / "index.json").read_text())}
VALID = sorted((VECTORS / "valid").glob("*.cbor"))
ORDER = ALGORITHMS[ES384].curve.group_order


def ids(data: bytes | CcaToken, challenge: bytes | None = CHALLENGE, *, test_keys: bool = False, legacy: bool = False) -> list[str]:
    parsed = data if isinstance(data, CcaToken) else parse_cca_token(data)
    findings = judge_realm_token(parsed, challenge=challenge, allow_test_keys=test_keys, allow_legacy_profile=legacy)
    return [finding.id for finding in findings]


def public_key(name: str) -> ec.EllipticCurvePublicKey:
    return load_pem_public_key((VECTORS / "keys" / f"{name}.pem").read_bytes())


# --- public tokens ---


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_valid_public_tokens_are_clean_in_test_mode(path):
    entry, parsed = INDEX[path.stem], parse_cca_token(path.read_bytes())
    assert ids(parsed, bytes.fromhex(entry["nonce"]), test_keys=True, legacy=True) == []
    assert judge_platform_signature(parsed, public_key(entry["platform_key"]), allow_test_keys=True) == ()
    assert judge_platform_claims(parsed, allow_test_keys=True) == ()


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_valid_public_tokens_are_refused_outside_test_mode(path):
    entry, parsed = INDEX[path.stem], parse_cca_token(path.read_bytes())
    expected = ["realm.test-key"]
    expected += ["realm.rim-zero"] if not int(entry["rim"], 16) else []
    expected += ["token.profile-legacy"] if parsed.profile_pair.legacy else []
    assert ids(parsed, bytes.fromhex(entry["nonce"])) == expected
    assert [finding.id for finding in judge_platform_claims(parsed, allow_test_keys=False)] == ["platform.test-instance"]
    assert [finding.id for finding in judge_platform_signature(parsed, public_key(entry["platform_key"]))] == ["platform.test-key"]


@pytest.mark.parametrize("name", ["cpak-veraison-p256", "rak-tfm-p384", "rak-tfm2-p384"])
def test_the_wrong_platform_key(name):
    parsed = parse_cca_token(VALID[0].read_bytes())
    found = judge_platform_signature(parsed, public_key(name), allow_test_keys=True)
    assert [finding.id for finding in found] == ["platform.signature"]


@pytest.mark.parametrize("name", ["o03-legacy-907-mec-text", "o04-legacy-907-instid-mecint", "o05-legacy-907-example-mec-text"])
def test_odd_public_tokens_that_can_be_read(name):
    entry = INDEX[name]
    parsed = parse_cca_token((VECTORS / "odd" / f"{name}.cbor").read_bytes())
    assert ids(parsed, bytes.fromhex(entry["nonce"]), test_keys=True, legacy=True) == []
    assert "token.profile-legacy" in ids(parsed, bytes.fromhex(entry["nonce"]))


# --- forged ---


@pytest.mark.parametrize("form", [399, 907])
@pytest.mark.parametrize("pair", PAIRS)
def test_a_good_token_is_good(pair, form):
    assert ids(token(pair, form), legacy=True) == []
    parsed = parse_cca_token(token(pair, form))
    assert judge_platform_signature(parsed, key("cpak").public_key()) == ()
    assert judge_platform_claims(parsed, allow_test_keys=False) == ()


@pytest.mark.parametrize("pair", PAIRS)
def test_the_legacy_profile_needs_permission(pair):
    assert ids(token(pair)) == (["token.profile-legacy"] if pair == "legacy" else [])


@pytest.mark.parametrize("pair", PAIRS)
def test_realm_token_of_one_platform_spliced_to_anothers_platform_token(pair):
    """The shape of rust-ccatoken's bug 33: both signatures are good, the attacker's own RAK signed the realm token."""
    genuine_platform, _ = parts(pair)
    _, realm = parts(pair)
    attacker = key("attacker")
    content = forge.raw_point(attacker) if pair == "legacy" else forge.cose_key(attacker)
    forged_realm = Signed(realm.claims | {44237: content}, attacker)
    spliced = parse_cca_token(wrap(907, genuine_platform.encode(), forged_realm.encode()))
    assert ids(spliced, legacy=True) == ["realm.binding"]
    assert judge_platform_signature(spliced, key("cpak").public_key()) == ()


@pytest.mark.parametrize("algorithm", ["sha-256", "sha-384", "sha-512"])
def test_the_binding_hash_is_the_realms_not_the_platforms(algorithm):
    assert ids(token("2024", realm={44240: algorithm})) == []
    realm = forge.realm_claims() | {44240: algorithm}
    others = {"sha-256", "sha-384", "sha-512"} - {algorithm}
    for other in others:
        mismatched = token("2024", realm={44240: algorithm}, platform={10: forge.bound(realm | {44240: other}), 2402: "sha-256"})
        assert ids(mismatched) == ["realm.binding"]


def test_a_truncated_binding_hash_is_refused():
    challenge = forge.bound(forge.realm_claims() | {44240: "sha-512"})
    for length in (32, 48):
        assert ids(token("2024", realm={44240: "sha-512"}, platform={10: challenge[:length]})) == ["realm.binding"]


def test_the_binding_is_over_the_bytes_as_received():
    """The same key in another map order is bound by its own hash, never by that of a canonical encoding."""
    x, y = forge.coordinates(key("rak"))
    for content in (cbor2.dumps({-1: 2, -2: x, -3: y, 1: 2}), cbor2.dumps({1: 2, 3: -35, -1: 2, -2: x, -3: y})):
        assert ids(token(realm={44237: content})) == []
        canonical = forge.bound(forge.realm_claims())
        assert ids(token(realm={44237: content}, platform={10: canonical})) == ["realm.binding"]


def test_a_realm_token_signed_by_another_key():
    platform, realm = parts()
    realm.private_key = key("attacker")
    assert ids(wrap(907, platform.encode(), realm.encode())) == ["realm.signature"]


@given(st.integers(0, 2000), st.integers(1, 255))
def test_a_changed_realm_payload_never_passes(position, flip):
    platform, realm = parts()
    encoded = bytearray(realm.encode())
    encoded[position % len(encoded)] ^= flip
    try:
        parsed = parse_cca_token(wrap(907, platform.encode(), bytes(encoded)))
    except MalformedEvidence:
        return
    assert "realm.signature" in ids(parsed)


@pytest.mark.parametrize("forged", [bytes(96), b"\x00" * 48 + b"\x01" * 48, ORDER.to_bytes(48, "big") * 2, b"", b"\x01" * 64, b"\x01" * 97])
def test_impossible_realm_signatures(forged):
    platform, realm = parts()
    encoded = cbor2.dumps(cbor2.CBORTag(18, [cbor2.dumps({1: ES384}), {}, cbor2.dumps(realm.claims), forged]))
    assert ids(wrap(907, platform.encode(), encoded)) == ["realm.signature"]


def test_a_malleated_signature_still_verifies_so_tokens_are_no_replay_keys():
    platform, realm = parts()
    encoded = realm.encode()
    s = int.from_bytes(encoded[-48:], "big")
    twin = encoded[:-48] + (ORDER - s).to_bytes(48, "big")
    assert twin != encoded
    assert ids(wrap(907, platform.encode(), twin)) == []


CHALLENGES = {
    "another": bytes(64),
    "prefix of 32": CHALLENGE[:32],
    "prefix of 63": CHALLENGE[:-1],
    "longer": CHALLENGE + b"\x00",
    "empty": b"",
    "last bit": CHALLENGE[:-1] + bytes([CHALLENGE[-1] ^ 1]),
}


@pytest.mark.parametrize("challenge", CHALLENGES.values(), ids=list(CHALLENGES))
def test_replayed_nonce_and_prefixes_of_a_nonce(challenge):
    assert ids(token(), challenge) == ["realm.challenge"]


def test_a_short_challenge_is_not_padded_by_us():
    short = b"\xaa" * 32
    assert ids(token(realm={10: short + bytes(32)}), short) == ["realm.challenge"]


def test_without_a_challenge_freshness_is_not_judged():
    assert ids(token(), None) == []


def test_every_finding_is_reported_not_just_the_first():
    platform, realm = parts("legacy", realm={44238: bytes(32)}, platform={10: bytes(32)})
    realm.private_key = key("attacker")
    found = ids(wrap(399, platform.encode(), realm.encode()), bytes(64))
    assert found == ["realm.signature", "realm.binding", "realm.challenge", "realm.rim-zero", "token.profile-legacy"]


def test_sha384_realm():
    assert ids(token("2024", hash_name="sha-384")) == []


# --- platform ---


def test_platform_algorithm_confusion():
    """A P-384 key cannot vouch for a token that says ES256, nor a P-256 key for one that says ES384."""
    platform, realm = parts()
    signed_256 = Signed(platform.claims, key("cpak", ec.SECP256R1), ES256)
    parsed = parse_cca_token(wrap(907, signed_256.encode(), realm.encode()))
    assert judge_platform_signature(parsed, key("cpak", ec.SECP256R1).public_key()) == ()
    assert [f.id for f in judge_platform_signature(parsed, key("cpak").public_key())] == ["platform.signature"]


def test_a_platform_header_that_pycose_cannot_represent_is_a_finding():
    platform, realm = parts()
    platform.protected = cbor2.dumps({1: ES384, 3: -1})
    parsed = parse_cca_token(wrap(907, platform.encode(), realm.encode()))
    assert [f.id for f in judge_platform_signature(parsed, key("cpak").public_key())] == ["token.header"]


@pytest.mark.parametrize("hexadecimal", ["0107060504030201000f0e0d0c0b0a090817161514131211101f1e1d1c1b1a1918", "01" + "02" * 32])
def test_published_instances(hexadecimal):
    parsed = parse_cca_token(token(platform={256: bytes.fromhex(hexadecimal)}))
    assert [f.id for f in judge_platform_claims(parsed, allow_test_keys=False)] == ["platform.test-instance"]
    assert judge_platform_claims(parsed, allow_test_keys=True) == ()


@pytest.mark.parametrize(
    ("low", "high", "state"),
    [
        (0x0000, 0x00FF, Lifecycle.UNKNOWN),
        (0x1000, 0x10FF, Lifecycle.ASSEMBLY),
        (0x2000, 0x20FF, Lifecycle.PROVISIONING),
        (0x3000, 0x30FF, Lifecycle.SECURED),
        (0x4000, 0x40FF, Lifecycle.NON_PLATFORM_DEBUG),
        (0x5000, 0x50FF, Lifecycle.RECOVERABLE_DEBUG),
        (0x6000, 0x60FF, Lifecycle.DECOMMISSIONED),
    ],
)
def test_life_cycle_states(low, high, state):
    assert lifecycle_state(low) is lifecycle_state(high) is state
    with pytest.raises(MalformedEvidence) as caught:
        lifecycle_state(high + 1)
    assert caught.value.finding_id == "token.claim-value"


@given(st.integers())
def test_life_cycle_of_any_number(value):
    try:
        state = lifecycle_state(value)
    except MalformedEvidence as error:
        refused = error
    else:
        assert value >> 8 in (0, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60)
        assert (state is Lifecycle.SECURED) == (0x3000 <= value <= 0x30FF)
        return
    assert refused.finding_id == "token.claim-value"
