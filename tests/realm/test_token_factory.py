"""Tokens of the factory, read and verified by the code that reads everybody's tokens."""

import dataclasses
import os

import pytest

from kbs_rim.appraisal.token_rules import judge_platform_signature, judge_realm_token
from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.cca_token import parse_cca_token
from kbs_rim.realm.platform_identity import PlatformIdentity
from kbs_rim.realm.token_factory import (
    PLATFORM_KEY,
    REALM_KEY,
    MecSpelling,
    OuterForm,
    PlatformBoot,
    RealmState,
    TokenProfile,
    collection,
)

CHALLENGE = bytes(range(64))


def realm(size=32, name="sha256"):
    return RealmState(name, os.urandom(size), tuple(os.urandom(size) for _ in range(4)), b"rpv".ljust(64, b"\0"), memory_private=True)


@pytest.fixture(scope="module", params=["P-256", "P-384"])
def identity(request):
    return PlatformIdentity.generate(request.param)


@pytest.mark.parametrize("form", list(OuterForm))
@pytest.mark.parametrize("profile", list(TokenProfile))
def test_every_form_and_profile_is_read_and_verified(identity, form, profile):
    boot, state = PlatformBoot(identity, profile), realm()
    token = parse_cca_token(boot.token(state, CHALLENGE, form))
    assert token.form.value == form.value
    assert judge_realm_token(token, challenge=CHALLENGE, allow_test_keys=False, allow_legacy_profile=True) == ()
    assert judge_platform_signature(token, identity.cpak.public_key()) == ()
    claims = token.realm.claims
    assert (token.platform.claims.profile, claims.profile) == (profile.platform, profile.realm)
    assert claims.initial_measurement == state.rim
    assert claims.extensible_measurements == state.rems
    assert claims.personalization_value == state.rpv
    assert token.platform.claims.instance_id == identity.instance_id
    assert claims.instance_id == (state.instance_id if profile.realm and "2024" in profile.realm else None)


@pytest.mark.parametrize(("name", "size"), [("sha256", 32), ("sha384", 48), ("sha512", 64)])
@pytest.mark.parametrize("rak_hash", ["sha256", "sha512"])
def test_every_hash(identity, name, size, rak_hash):
    boot = PlatformBoot(identity, TokenProfile.P2023_R2024, rak_hash=rak_hash)
    token = parse_cca_token(boot.token(realm(size, name), CHALLENGE))
    assert judge_realm_token(token, challenge=CHALLENGE, allow_test_keys=False, allow_legacy_profile=False) == ()
    assert token.realm.claims.hash_algorithm.compact_name == name


@pytest.mark.parametrize("spelling", [MecSpelling.TEXT, MecSpelling.INTEGER])
@pytest.mark.parametrize("private", [True, False])
def test_both_spellings_of_the_encryption_policy(identity, spelling, private):
    boot = PlatformBoot(identity, TokenProfile.P2023_R2024, mec=spelling)
    state = dataclasses.replace(realm(), memory_private=private)
    token = parse_cca_token(boot.token(state, CHALLENGE))
    assert token.realm.claims.memory_encryption == ("private" if private else "shared")


def test_two_boots_have_two_keys(identity):
    assert PlatformBoot(identity).rak_content != PlatformBoot(identity).rak_content


def test_the_platform_token_is_the_same_for_every_realm_of_a_boot(identity):
    boot = PlatformBoot(identity)
    one, two = (parse_cca_token(boot.token(realm(), os.urandom(64))) for _ in range(2))
    assert one.platform.raw == two.platform.raw
    assert one.realm.raw != two.realm.raw


def test_another_challenge_is_noticed(identity):
    token = parse_cca_token(PlatformBoot(identity).token(realm(), bytes(64)))
    findings = judge_realm_token(token, challenge=CHALLENGE, allow_test_keys=False, allow_legacy_profile=False)
    assert [finding.id for finding in findings] == ["realm.challenge"]


@pytest.mark.parametrize("form", list(OuterForm))
def test_the_outer_encoder_can_lie_and_is_refused(identity, form):
    boot = PlatformBoot(identity)
    members = [(PLATFORM_KEY, boot.platform_token), (REALM_KEY, boot.realm_token(realm(), CHALLENGE))]
    assert parse_cca_token(collection(form, members)).form.value == form.value
    with pytest.raises(MalformedEvidence) as repeated:
        parse_cca_token(collection(form, members + members))
    assert repeated.value.finding_id == "cbor.duplicate-key"
    with pytest.raises(MalformedEvidence) as text:
        parse_cca_token(collection(form, [*members, ("44234", boot.platform_token)]))
    assert text.value.finding_id == "cbor.key-type"


def test_sizes_stay_within_what_tf_rmm_hands_out(identity):
    boot = PlatformBoot(identity, TokenProfile.P2024_R2024)
    assert len(boot.realm_token(realm(64, "sha512"), CHALLENGE)) <= 1024
    assert len(boot.token(realm(64, "sha512"), CHALLENGE)) <= 4096
