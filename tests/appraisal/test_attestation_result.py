"""Attestation results: the good one passes, and every way to be wrong has its finding."""

import base64
import copy
import json
from types import SimpleNamespace

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given
from hypothesis import strategies as st

from kbs_rim.appraisal.annotated_evidence import judge_platform_evidence, judge_realm_evidence
from kbs_rim.appraisal.attestation_result import EarPolicy, judge_attestation_result
from kbs_rim.appraisal.ear_signature import EarKey
from kbs_rim.appraisal.ear_vector import CLAIM_NAMES, TrustTier, TrustVector, parse_status, parse_vector, tier_of
from kbs_rim.appraisal.findings import Severity
from kbs_rim.errors import InvalidDocument, MalformedEvidence
from kbs_rim.evidence.cca_token import parse_cca_token
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.ledger.canonical import canonical_json
from kbs_rim.limits import Limits
from tests.ear_forge import NOW, PLATFORM, REALM, b64, b64url, ear, public_jwk, sign, vector, verifier_key
from tests.token_forge import CHALLENGE, token

KEY = EarKey.from_jwk(public_jwk(verifier_key()))
POLICY = EarPolicy(keys=(KEY,))
TOKEN = parse_cca_token(token())
VECTOR, STATUS, ANNOTATED = "ear.trustworthiness-vector", "ear.status", "ear.veraison.annotated-evidence"


def judge(jwt, policy=POLICY, *, subject=TOKEN, challenge=CHALLENGE, issued_at=NOW - 2, at=NOW + 1, discovery_keys=(), limits=None):
    return judge_attestation_result(
        jwt,
        policy,
        token=subject,
        challenge=challenge,
        issued_at=issued_at,
        at=at,
        discovery_keys=discovery_keys,
        limits=limits or Limits(),
    )


def ids(opinion):
    return [finding.id for finding in opinion.findings]


def changed(change, claims=None):
    claims = copy.deepcopy(claims or ear())
    change(claims)
    return sign(claims)


# --- the good one -----------------------------------------------------------------------------------------------------


def test_a_good_result_has_nothing_against_it():
    opinion = judge(sign(ear()))
    assert opinion.findings == ()
    assert opinion.affirming
    assert opinion.statuses == {PLATFORM: "affirming", REALM: "affirming"}
    assert opinion.vectors[PLATFORM]["hardware"] == 2
    assert opinion.key_thumbprint == KEY.thumbprint
    assert opinion.claims["developer"] == "Veraison Project"
    assert opinion.claims["platform_policy_id"] == "policy:ARM_CCA"


def test_the_facts_fit_the_record():
    facts = judge(sign(ear())).facts
    assert json.loads(canonical_json(facts)) == facts
    assert set(facts) == {"statuses", "vectors", "key_thumbprint", "claims"}


@pytest.mark.parametrize("pair", ["legacy", "2023", "2023-2024", "2024"])
def test_every_pair_of_profiles(pair):
    assert judge(sign(ear(pair)), subject=parse_cca_token(token(pair))).findings == ()


@pytest.mark.parametrize(
    "spelling",
    [
        base64.urlsafe_b64encode(CHALLENGE).decode(),
        b64url(CHALLENGE),
        base64.b64encode(CHALLENGE).decode(),
        base64.b64encode(CHALLENGE).decode().rstrip("="),
    ],
)
def test_nonce_in_any_alphabet(spelling):
    assert judge(changed(lambda claims: claims.update(eat_nonce=spelling))).findings == ()


@pytest.mark.parametrize("status", ["affirming", 2, "2"])
def test_status_in_any_spelling(status):
    def change(claims):
        for part in claims["submods"].values():
            part[STATUS] = status

    assert judge(changed(change)).findings == ()


def test_realm_without_reference_values_is_a_warning_that_passes():
    def change(claims):
        claims["submods"][REALM] |= {STATUS: "warning", VECTOR: vector(instance_identity=2, executables=33)}

    opinion = judge(changed(change))
    assert opinion.findings == ()
    assert opinion.statuses[REALM] == "warning"
    strict = EarPolicy(keys=(KEY,), realm_statuses=frozenset({TrustTier.AFFIRMING}))
    assert ids(judge(changed(change), strict)) == ["verifier.realm-status"]


# --- steps 1 and 2: envelope, algorithm, key --------------------------------------------------------------------------


def test_ear_signed_by_a_foreign_key():
    opinion = judge(sign(ear(), verifier_key("foreign")))
    assert ids(opinion) == ["verifier.signature"]
    assert opinion.statuses == {}


def test_algorithm_none():
    unsigned = sign(ear(), header={"alg": "none"}).rsplit(".", 1)[0] + "."
    assert ids(judge(unsigned)) == ["verifier.algorithm"]


@pytest.mark.parametrize("algorithm", ["none", "HS256", "ES384", "RS256", "", None, 7, ["ES256"]])
def test_algorithm_is_the_policys(algorithm):
    assert ids(judge(sign(ear(), header={"alg": algorithm}))) == ["verifier.algorithm"]


def test_algorithm_missing():
    assert ids(judge(sign(ear(), header={"typ": "JWT"}))) == ["verifier.algorithm"]


def test_algorithm_must_fit_the_key():
    policy = EarPolicy(keys=(KEY,), algorithms=frozenset({"ES256", "ES384"}))
    assert ids(judge(sign(ear(), header={"alg": "ES384"}), policy)) == ["verifier.signature"]
    key = verifier_key("p384", ec.SECP384R1)
    policy = EarPolicy(keys=(EarKey.from_jwk(public_jwk(key)),), algorithms=frozenset({"ES384"}))
    assert judge(sign(ear(), key, algorithm="ES384"), policy).findings == ()


def test_key_in_the_header_is_not_a_key():
    foreign = verifier_key("foreign")
    header = {"alg": "ES256", "jwk": public_jwk(foreign), "x5c": [], "jku": "https://verifier.example/jwks"}
    assert ids(judge(sign(ear(), foreign, header=header))) == ["verifier.signature"]


@pytest.mark.parametrize("member", ["crit", "zip"])
def test_extensions_that_change_the_meaning(member):
    assert ids(judge(sign(ear(), header={"alg": "ES256", member: ["b64"]}))) == ["verifier.malformed"]


def test_payload_changed_after_signing():
    head, _, signature = sign(ear()).split(".")
    other = ear()
    other["submods"][PLATFORM][STATUS] = "contraindicated"
    assert ids(judge(f"{head}.{b64url(json.dumps(other).encode())}.{signature}")) == ["verifier.signature"]


@pytest.mark.parametrize("cut", [0, 1, 32, 63])
def test_signature_of_another_length(cut):
    message, signature = sign(ear()).rsplit(".", 1)
    short = base64.urlsafe_b64decode(signature + "==")[:cut]
    assert ids(judge(f"{message}.{b64url(short)}")) == ["verifier.signature"]


def test_zero_signature():
    message, _ = sign(ear()).rsplit(".", 1)
    assert ids(judge(f"{message}.{b64url(bytes(64))}")) == ["verifier.signature"]


@pytest.mark.parametrize(
    "text",
    ["", ".", "..", "...", "a.b", "a.b.c.d", "{}", "é.é.é", "=.=.=", "e30.e30.", "W10.e30.AAAA", "e30=.e30.AAAA", "e30.e31.AAAA x"],
)
def test_not_a_jws(text):
    assert ids(judge(text))[0] in ("verifier.malformed", "verifier.algorithm")
    assert not judge(text).affirming


def test_too_large():
    assert ids(judge(sign(ear()), limits=Limits(attestation_result_bytes=1000))) == ["verifier.malformed"]


def test_duplicate_claim_names():
    payload = json.dumps(ear()).encode().replace(b'"iat"', b'"iat": 1, "iat"', 1)
    assert ids(judge(sign(None, payload=payload))) == ["verifier.malformed"]


def test_duplicate_names_in_the_header():
    header = b'{"alg":"none","alg":"ES256"}'
    message = f"{b64url(header)}.{b64url(json.dumps(ear()).encode())}"
    assert ids(judge(f"{message}.{b64url(bytes(64))}")) == ["verifier.malformed"]


@pytest.mark.parametrize("payload", [b"[]", b"1", b"null", b"{", b"\xff", b'{"a": NaN}'])
def test_payload_is_no_object(payload):
    assert ids(judge(sign(None, payload=payload))) == ["verifier.malformed"]


def test_published_key_is_refused_unless_allowed(vectors):
    jwt = (vectors / "corim/generated/ear-good.jwt").read_text().strip()
    published = EarKey.from_jwk(json.loads((vectors / "corim/keys/verifier.jwk").read_text()))
    found = judge(jwt, EarPolicy(keys=(published,)), at=1_790_000_000).findings
    assert [finding.severity for finding in found if finding.id == "verifier.published-key"] == [Severity.ERROR]
    found = judge(jwt, EarPolicy(keys=(published,), allow_published_keys=True), at=1_790_000_000).findings
    assert [finding.severity for finding in found if finding.id == "verifier.published-key"] == [Severity.WARNING]


def test_discovery_keys_count_only_by_choice():
    key = verifier_key("discovered")
    jwt, keys = sign(ear(), key), (public_jwk(key),)
    opinion = judge(jwt, discovery_keys=keys)
    assert ids(opinion) == ["verifier.key-drift", "verifier.signature"]
    opinion = judge(jwt, EarPolicy(trust_discovery=True), discovery_keys=keys)
    assert [(finding.id, finding.severity) for finding in opinion.findings] == [("verifier.discovery-key", Severity.WARNING)]
    assert opinion.affirming


def test_discovery_alone_without_a_key_is_nothing():
    assert ids(judge(sign(ear()), EarPolicy(trust_discovery=True))) == ["verifier.signature"]
    unreadable = ({"kty": "oct", "k": "AAAA"}, {"kty": "EC", "alg": []}, {"kty": ["EC"]})
    assert ids(judge(sign(ear()), EarPolicy(trust_discovery=True), discovery_keys=unreadable)) == ["verifier.signature"]


def test_key_drift_is_a_warning():
    opinion = judge(sign(ear()), discovery_keys=(public_jwk(verifier_key("rotated")),))
    assert [(finding.id, finding.severity) for finding in opinion.findings] == [("verifier.key-drift", Severity.WARNING)]
    assert opinion.affirming
    assert judge(sign(ear()), discovery_keys=(public_jwk(verifier_key()),)).findings == ()


def test_several_pinned_keys_bridge_a_rotation():
    old, new = verifier_key("old"), verifier_key("new")
    policy = EarPolicy(keys=tuple(EarKey.from_jwk(public_jwk(key)) for key in (old, new)))
    assert judge(sign(ear(), old), policy).affirming
    assert judge(sign(ear(), new), policy).affirming


def test_rsa_pss_and_ed25519_keys():
    message = sign(ear(), header={"alg": "PS256"}).rsplit(".", 1)[0]
    private = rsa.generate_private_key(65537, 2048)
    numbers = private.public_key().public_numbers()
    jwk = {"kty": "RSA", "n": b64url(numbers.n.to_bytes(256, "big")), "e": "AQAB"}
    policy = EarPolicy(keys=(EarKey.from_jwk(jwk),), algorithms=frozenset({"PS256"}))
    signature = private.sign(message.encode(), PSS(MGF1(SHA256()), 32), SHA256())
    assert judge(f"{message}.{b64url(signature)}", policy).findings == ()
    assert ids(judge(f"{message}.{b64url(signature[:-1])}", policy)) == ["verifier.signature"]

    message = sign(ear(), header={"alg": "EdDSA"}).rsplit(".", 1)[0]
    private = ed25519.Ed25519PrivateKey.generate()
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": b64url(private.public_key().public_bytes_raw())}
    policy = EarPolicy(keys=(EarKey.from_jwk(jwk),), algorithms=frozenset({"EdDSA"}))
    assert judge(f"{message}.{b64url(private.sign(message.encode()))}", policy).findings == ()
    assert ids(judge(f"{message}.{b64url(bytes(64))}", policy)) == ["verifier.signature"]


# --- steps 3 to 5: who, when, for what --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "profile", [None, "", 7, "tag:github.com,2024:confidential-containers/Trustee", ["tag:github.com,2023:veraison/ear"]]
)
def test_profile(profile):
    assert ids(judge(changed(lambda claims: claims.update(eat_profile=profile)))) == ["verifier.profile"]


@pytest.mark.parametrize(
    "identity", [None, "Veraison", {}, {"build": "1"}, {"developer": "x"}, {"developer": "", "build": "1"}, {"developer": 1, "build": 2}]
)
def test_verifier_identity(identity):
    assert ids(judge(changed(lambda claims: claims.update({"ear.verifier-id": identity})))) == ["verifier.identity"]


def test_another_verifier():
    policy = EarPolicy(keys=(KEY,), developer="Somebody Else")
    opinion = judge(sign(ear()), policy)
    assert ids(opinion) == ["verifier.identity"]
    assert opinion.findings[0].seen == "Veraison Project"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"iat": NOW - 3600}, ["verifier.stale"]),
        ({"iat": NOW + 3600}, ["verifier.future"]),
        ({"iat": NOW + 61}, []),
        ({"iat": NOW + 62}, ["verifier.future"]),
        ({"iat": NOW - 62}, []),
        ({"iat": NOW - 63}, ["verifier.stale"]),
        ({"iat": None}, ["verifier.stale"]),
        ({"iat": True}, ["verifier.stale"]),
        ({"iat": "1800000000"}, ["verifier.stale"]),
        ({"iat": 1800000000.5}, ["verifier.stale"]),
        ({"iat": 10**18}, ["verifier.future"]),
        ({"exp": NOW + 300}, []),
        ({"exp": NOW - 300}, ["verifier.stale"]),
        ({"exp": "never"}, ["verifier.stale"]),
        ({"nbf": NOW - 300}, []),
        ({"nbf": NOW + 300}, ["verifier.future"]),
    ],
)
def test_times(change, expected):
    opinion = judge(changed(lambda claims: claims.update(change)))
    assert ids(opinion) == expected
    canonical_json(opinion.facts)


def test_an_old_result_may_not_be_older_than_the_challenge_even_within_the_age_limit():
    jwt = changed(lambda claims: claims.update(iat=NOW - 100))
    assert ids(judge(jwt, issued_at=NOW - 100)) == []
    assert ids(judge(jwt, issued_at=NOW - 30)) == ["verifier.stale"]


def test_ear_of_another_session():
    opinion = judge(sign(ear(nonce=bytes(64))))
    assert ids(opinion) == ["verifier.nonce"]


@pytest.mark.parametrize("nonce", [None, "", 7, "!!!", b64url(CHALLENGE[:32]), b64url(CHALLENGE + b"\0"), [b64url(CHALLENGE)]])
def test_nonce(nonce):
    assert ids(judge(changed(lambda claims: claims.update(eat_nonce=nonce)))) == ["verifier.nonce"]


def test_nonce_missing():
    assert ids(judge(changed(lambda claims: claims.pop("eat_nonce")))) == ["verifier.nonce"]


# --- steps 6 and 7: parts, statuses, vectors --------------------------------------------------------------------------


@pytest.mark.parametrize("submods", [None, {}, [], "affirming", 7])
def test_no_parts(submods):
    """Nothing was read, so nothing was read otherwise: only the missing parts refuse."""
    assert ids(judge(changed(lambda claims: claims.update(submods=submods)))) == ["verifier.submods"]


@pytest.mark.parametrize("name", [PLATFORM, REALM])
def test_a_part_is_missing(name):
    assert ids(judge(changed(lambda claims: claims["submods"].pop(name)))) == ["verifier.submods"]


def test_a_part_that_is_there_is_compared_though_the_other_is_missing():
    def change(claims):
        claims["submods"].pop(PLATFORM)
        claims["submods"][REALM].pop("ear.veraison.annotated-evidence")

    assert ids(judge(changed(change))) == ["verifier.submods", "verifier.evidence-mismatch"]


def test_extra_part_is_not_good_for_anything():
    def change(claims):
        claims["submods"]["OTHER"] = claims["submods"][PLATFORM]

    assert ids(judge(changed(change))) == ["verifier.submods"]


def test_part_that_is_no_object():
    assert "verifier.submods" in ids(judge(changed(lambda claims: claims["submods"].update({REALM: "affirming"}))))


def test_early_failure_names_the_problem_for_administrators(vectors):
    jwt = (vectors / "corim/generated/ear-freshness-fail.jwt").read_text().strip()
    published = EarKey.from_jwk(json.loads((vectors / "corim/keys/verifier.jwk").read_text()))
    opinion = judge(jwt, EarPolicy(keys=(published,), allow_published_keys=True), at=1_790_000_000)
    assert "verifier.submods" in ids(opinion)
    assert opinion.claims["problem"].startswith("integrity validation failed: bad evidence: freshness")


@pytest.mark.parametrize(
    ("status", "expected"),
    [("none", True), ("warning", True), ("contraindicated", True), (32, True), ("Affirming", True), (None, True), (True, True), (2, False)],
)
def test_platform_status(status, expected):
    opinion = judge(changed(lambda claims: claims["submods"][PLATFORM].update({STATUS: status})))
    assert ids(opinion) == (["verifier.status"] if expected else [])


@pytest.mark.parametrize("claim", ["hardware", "instance-identity", "configuration", "executables"])
@pytest.mark.parametrize("value", [0, 32, 36, 96, 97, -33])
def test_declared_status_does_not_outshine_the_vector(claim, value):
    opinion = judge(changed(lambda claims: claims["submods"][PLATFORM][VECTOR].update({claim: value})))
    assert set(ids(opinion)) == {"verifier.status"}
    assert opinion.statuses[PLATFORM] == ("affirming" if value == 0 else tier_of(value).label)


@pytest.mark.parametrize("claim", ["file-system", "sourced-data", "runtime-opaque", "storage-opaque"])
def test_other_claims_lower_the_status(claim):
    assert ids(judge(changed(lambda claims: claims["submods"][PLATFORM][VECTOR].update({claim: 96})))) == ["verifier.status"]


@pytest.mark.parametrize("value", [-1, 1, 99])
@pytest.mark.parametrize("submod", [PLATFORM, REALM])
def test_malfunction_anywhere(value, submod):
    opinion = judge(changed(lambda claims: claims["submods"][submod][VECTOR].update({"sourced-data": value})))
    assert "verifier.vector" in ids(opinion)
    assert not opinion.affirming


@pytest.mark.parametrize(
    "value",
    [None, {}, [], "good", {"hardware": "2"}, {"hardware": 2.0}, {"hardware": True}, {"hardware": 128}, {"hardware": 10**12}, {"magic": 2}],
)
@pytest.mark.parametrize("submod", [PLATFORM, REALM])
def test_unreadable_vector(value, submod):
    opinion = judge(changed(lambda claims: claims["submods"][submod].update({VECTOR: value})))
    assert ids(opinion) == ["verifier.vector"]
    assert opinion.findings[0].where["submod"] == submod


def test_vector_missing():
    assert ids(judge(changed(lambda claims: claims["submods"][PLATFORM].pop(VECTOR)))) == ["verifier.vector"]


@pytest.mark.parametrize(
    "change",
    [
        {STATUS: "warning", VECTOR: vector(instance_identity=2, executables=32)},
        {STATUS: "warning", VECTOR: vector(instance_identity=2, executables=33, configuration=2)},
        {STATUS: "warning", VECTOR: vector(instance_identity=3, executables=33)},
        {STATUS: "warning", VECTOR: vector(executables=33)},
        {STATUS: "contraindicated", VECTOR: vector(instance_identity=2, executables=96)},
        {STATUS: "affirming", VECTOR: vector(instance_identity=2, executables=96)},
        {STATUS: "affirming", VECTOR: vector(executables=2)},
        {STATUS: "none", VECTOR: vector(instance_identity=2, executables=2)},
        {STATUS: "contraindicated"},
        {STATUS: "fine"},
    ],
)
def test_realm_status(change):
    assert ids(judge(changed(lambda claims: claims["submods"][REALM].update(change)))) == ["verifier.realm-status"]


def test_appraisal_policy_id():
    wanted = EarPolicy(keys=(KEY,), appraisal_policy_ids=frozenset({"policy:ARM_CCA"}))
    assert judge(sign(ear()), wanted).findings == ()

    def change(claims):
        claims["submods"][PLATFORM]["ear.appraisal-policy-id"] = "policy:ARM_CCA/9c4ff9bc"
        claims["submods"][REALM]["ear.appraisal-policy-id"] = ["policy:ARM_CCA"]

    assert ids(judge(changed(change), wanted)) == ["verifier.policy-id", "verifier.policy-id"]
    assert judge(changed(change)).findings == ()


# --- step 8: the same evidence ----------------------------------------------------------------------------------------

PLATFORM_CLAIMS = [
    "cca-platform-challenge",
    "cca-platform-implementation-id",
    "cca-platform-instance-id",
    "cca-platform-config",
    "cca-platform-lifecycle",
    "cca-platform-sw-components",
    "cca-platform-hash-algo-id",
]
REALM_CLAIMS = [
    "cca-realm-challenge",
    "cca-realm-personalization-value",
    "cca-realm-initial-measurement",
    "cca-realm-extensible-measurements",
    "cca-realm-hash-algo-id",
    "cca-realm-public-key",
    "cca-realm-public-key-hash-algo-id",
]
COMPARED = [(PLATFORM, claim) for claim in PLATFORM_CLAIMS] + [(REALM, claim) for claim in REALM_CLAIMS]


@pytest.mark.parametrize(("submod", "claim"), COMPARED)
def test_claim_not_reported(submod, claim):
    opinion = judge(changed(lambda claims: claims["submods"][submod][ANNOTATED].pop(claim)))
    assert [(finding.id, finding.where) for finding in opinion.findings] == [("verifier.evidence-mismatch", {"claim": claim})]


@pytest.mark.parametrize("value", [None, 7, True, "!", "", [], {}, b64(b"\x77" * 32), "sha-512", 0x4003, [b64(b"\x00" * 32)] * 4])
@pytest.mark.parametrize(("submod", "claim"), COMPARED)
def test_claim_differs(submod, claim, value):
    opinion = judge(changed(lambda claims: claims["submods"][submod][ANNOTATED].update({claim: value})))
    assert [(finding.id, finding.where) for finding in opinion.findings] == [("verifier.evidence-mismatch", {"claim": claim})]


@pytest.mark.parametrize("name", ["measurement-value", "signer-id", "measurement-type", "version"])
@pytest.mark.parametrize("value", [None, "other", 7])
def test_component_differs(name, value):
    def change(claims):
        component = claims["submods"][PLATFORM][ANNOTATED]["cca-platform-sw-components"][0]
        component.pop(name)
        if value is not None:
            component[name] = value

    opinion = judge(changed(change))
    assert [(finding.id, finding.where["claim"]) for finding in opinion.findings] == [
        ("verifier.evidence-mismatch", f"cca-platform-sw-components[0].{name}")
    ]


def test_component_added_or_hidden():
    def change(claims):
        claims["submods"][PLATFORM][ANNOTATED]["cca-platform-sw-components"] *= 2

    assert ids(judge(changed(change))) == ["verifier.evidence-mismatch"]


def test_result_about_another_realm_of_the_same_platform():
    """What a token with the realm in it twice makes a lenient verifier say (cca-token.md 4.5 item 29)."""
    rim = b64(b"\x12" * 32)
    opinion = judge(changed(lambda claims: claims["submods"][REALM][ANNOTATED].update({"cca-realm-initial-measurement": rim})))
    assert ids(opinion) == ["verifier.evidence-mismatch"]
    assert opinion.findings[0].seen == "12" * 32


def test_annotated_evidence_missing_altogether():
    def change(claims):
        for part in claims["submods"].values():
            part.pop(ANNOTATED)

    assert ids(judge(changed(change))) == ["verifier.evidence-mismatch"] * 2


def test_the_realm_profile_is_not_compared():
    assert judge(changed(lambda claims: claims["submods"][REALM][ANNOTATED].update({"cca-realm-profile": "x"}))).findings == ()


def test_names_are_those_of_veraison(vectors):
    """Our comparison accepts what Veraison's own integration test expects for its own sample token."""
    collection = cbor2.loads((vectors / "corim/services-head/cca-good.cbor").read_bytes()).value
    platform, realm = (cbor2.loads(cbor2.loads(collection[label]).value[2]) for label in (44234, 44241))
    results = json.loads((vectors / "corim/results/cca.end-to-end.json").read_text())
    components = tuple(
        SimpleNamespace(measurement_type=part[1], measurement_value=part[2], version=part[4], signer_id=part[5]) for part in platform[2399]
    )
    ours = SimpleNamespace(
        challenge=platform[10],
        implementation_id=platform[2396],
        instance_id=platform[256],
        config=platform[2401],
        lifecycle=platform[2395],
        hash_algorithm=platform[2402],
        sw_components=components,
    )
    assert judge_platform_evidence(results[PLATFORM][ANNOTATED], ours) == ()
    ours = SimpleNamespace(
        challenge=realm[10],
        personalization_value=realm[44235],
        initial_measurement=realm[44238],
        extensible_measurements=tuple(realm[44239]),
        public_key=realm[44237],
        hash_algorithm=HashAlgorithm(realm[44236]),
        public_key_hash_algorithm=HashAlgorithm(realm[44240]),
    )
    assert judge_realm_evidence(results[REALM][ANNOTATED], ours) == ()


# --- all findings, and no exception, whatever comes -------------------------------------------------------------------


def test_all_findings_are_reported_not_just_the_first():
    def change(claims):
        claims.update(eat_profile="x", iat=0, eat_nonce="AAAA")
        claims["submods"][PLATFORM][STATUS] = "warning"

    assert ids(judge(changed(change))) == ["verifier.profile", "verifier.stale", "verifier.nonce", "verifier.status"]


def test_text_of_the_verifier_is_made_harmless():
    hostile = "\x1b[2J\u202e\nroot" + "x" * 5000

    def change(claims):
        claims["eat_profile"] = hostile
        claims["submods"][PLATFORM]["ear.veraison.policy-claims"] = {"problem": hostile}

    opinion = judge(changed(change))
    for text in (opinion.findings[0].seen, opinion.claims["problem"], opinion.claims["profile"]):
        assert text.isprintable()
        assert len(text) < 300


@given(st.text() | st.binary().map(lambda data: data.decode("latin-1")))
def test_any_text_gives_an_opinion(text):
    opinion = judge(text)
    assert opinion.findings
    assert not opinion.affirming


@given(st.integers(0, 5000), st.integers(0, 127))
def test_any_change_of_one_character_is_refused(position, character):
    jwt = sign(ear())
    position %= len(jwt)
    other = jwt[:position] + chr(character) + jwt[position + 1 :]
    assert judge(other).affirming == (other == jwt)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4),
    max_leaves=8,
)
PATHS = [
    ("eat_profile",),
    ("iat",),
    ("exp",),
    ("eat_nonce",),
    ("ear.verifier-id",),
    ("ear.verifier-id", "developer"),
    ("submods",),
    *(("submods", name) for name in (PLATFORM, REALM)),
    *(("submods", name, member) for name in (PLATFORM, REALM) for member in (STATUS, VECTOR, ANNOTATED, "ear.appraisal-policy-id")),
    *(("submods", PLATFORM, VECTOR, claim) for claim in CLAIM_NAMES),
    *(("submods", submod, ANNOTATED, claim) for submod, claim in COMPARED),
    ("submods", PLATFORM, ANNOTATED, "cca-platform-sw-components", 0),
    ("submods", PLATFORM, "ear.veraison.policy-claims"),
]


@given(st.sampled_from(PATHS), JSON)
def test_any_value_anywhere_gives_an_opinion_that_can_be_recorded(path, value):
    claims = ear()
    inner = claims
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    opinion = judge(sign(claims), EarPolicy(keys=(KEY,), appraisal_policy_ids=frozenset({"policy:ARM_CCA"})))
    canonical_json([opinion.facts, *(finding.to_document() for finding in opinion.findings)])


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "tier"),
    [
        (-128, 96),
        (-97, 96),
        (-96, 32),
        (-33, 32),
        (-32, 2),
        (-2, 2),
        (-1, 0),
        (0, 0),
        (1, 0),
        (2, 2),
        (31, 2),
        (32, 32),
        (95, 32),
        (96, 96),
        (127, 96),
    ],
)
def test_tiers(value, tier):
    assert tier_of(value) == tier


@pytest.mark.parametrize("value", [-129, 128])
def test_no_tier_outside_eight_bits(value):
    with pytest.raises(ValueError, match="8-bit"):
        tier_of(value)


@given(st.integers() | st.text() | st.booleans() | st.none() | st.lists(st.integers()))
def test_any_status_is_a_tier_or_unknown(value):
    status = parse_status(value)
    assert status is None or status in TrustTier


@given(JSON)
def test_any_vector_is_read_or_refused(value):
    try:
        vector_ = parse_vector(value)
    except MalformedEvidence as error:
        finding_id = error.finding_id
    else:
        assert isinstance(vector_, TrustVector)
        return
    assert finding_id == "verifier.vector"


def test_a_vector_knows_only_its_claims():
    with pytest.raises(ValueError, match="not a claim"):
        TrustVector({"magic": 2})
    assert TrustVector({}).worst is TrustTier.NONE


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"keys": ()}, "without a pinned key"),
        ({"algorithms": frozenset()}, "algorithms"),
        ({"algorithms": frozenset({"HS256"})}, "algorithms"),
        ({"algorithms": frozenset({"none"})}, "algorithms"),
        ({"profiles": frozenset()}, "profile"),
        ({"max_age_s": 0}, "max_age_s"),
        ({"skew_s": -1}, "skew_s"),
        ({"realm_statuses": frozenset({TrustTier.CONTRAINDICATED})}, "realm"),
        ({"keys": (KEY,) * 17}, "16"),
    ],
)
def test_policies_that_cannot_be(change, text):
    with pytest.raises(ValueError, match=text):
        EarPolicy(**{"keys": (KEY,), **change})


@pytest.mark.parametrize(
    "change",
    [
        {"d": "AAAA"},
        {"kty": "oct"},
        {"kty": None},
        {"crv": "P-192"},
        {"crv": "P-384"},
        {"x": None},
        {"x": "AAAA"},
        {"x": "!" * 43},
        {"y": b64url(bytes(32))},
        {"alg": "ES384"},
        {"alg": "none"},
        {"alg": ["ES256"]},
        {"kty": "OKP"},
        {"kty": "OKP", "crv": "Ed25519", "x": "AAAA"},
        {"kty": "RSA", "n": "AQAB", "e": "AQAB"},
        {"kty": "RSA", "n": b64url(b"\xff" * 256), "e": ""},
    ],
)
def test_keys_that_cannot_sign(change):
    with pytest.raises(InvalidDocument) as refused:
        EarKey.from_jwk(public_jwk(verifier_key()) | change)
    assert refused.value.finding_id == "verifier.key"


def test_thumbprint_is_the_published_one(vectors):
    key = EarKey.from_jwk(json.loads((vectors / "corim/keys/verifier.jwk").read_text()))
    assert key.thumbprint == "xNnfOFTMgZSRM3KtGHQqavZGWGF00Fe54LZBYCIxr88"
