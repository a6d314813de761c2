"""Attacks with tokens: spliced, forged, ambiguous, from platforms in debug or unknown."""

import hashlib
from dataclasses import replace
from io import BytesIO

import cbor2
import pytest

from kbs_rim.evidence.envelope import Evidence
from kbs_rim.evidence.tcg_log import LogKind
from kbs_rim.realm.lies import LIES, Lie
from kbs_rim.realm.platform_identity import PlatformIdentity
from kbs_rim.realm.simulator import SimulatedRealm, TokenStyle
from kbs_rim.realm.token_factory import PLATFORM_KEY, REALM_KEY, OuterForm, PlatformBoot, RealmState, TokenProfile, collection
from tests.broker_stage import SECRETS, VMS, Site

VM = "qemu-kernel"
every_form = pytest.mark.parametrize("form", list(OuterForm))
every_vm = pytest.mark.parametrize("vm", VMS)


def state_of(realm: SimulatedRealm) -> RealmState:
    return RealmState(realm.built.params.hash.value, realm.rim, realm.rems, realm.built.params.rpv)


async def attempt(site: Site, make_token, vm: str = VM):
    """Send what ``make_token`` makes of the honest realm and the challenge, with the honest log."""
    realm = site.realm(vm)
    offer = await site.offer(site.exchange(vm))
    return await site.submit(offer, Evidence(make_token(realm, offer.challenge), ((LogKind.VMM, realm.log),)))


def ids(record: dict) -> set[str]:
    return {finding["id"] for finding in record["findings"] if finding["severity"] == "error"}


# --- spliced ----------------------------------------------------------------------------------------------------------


@every_vm
async def test_attack_spliced_tokens(site: Site, vm: str) -> None:
    """Bug 33: a realm token under the attacker's own key beside the genuine token of an endorsed platform."""
    record = await site.assert_refused(await site.attempt(vm, lie=Lie.SPLICED_PLATFORM_TOKEN), "realm.binding", code="realm-token-refused")
    assert "realm.signature" not in ids(record), "the realm token is signed well, by a key that nobody vouches for"
    assert record["inputs"]["attestation-result"]


async def test_attack_spliced_tokens_of_two_genuine_platforms(site: Site) -> None:
    """Both platforms are genuine; the realm runs on the one that the owner never heard of."""
    stranger = PlatformBoot(PlatformIdentity.generate())
    ours = PlatformBoot(site.trust.stage.identity)

    def spliced(realm: SimulatedRealm, challenge: bytes) -> bytes:
        members = [(PLATFORM_KEY, ours.platform_token), (REALM_KEY, stranger.realm_token(state_of(realm), challenge))]
        return collection(OuterForm.CMW, members)

    await site.assert_refused(await attempt(site, spliced), "realm.binding", code="realm-token-refused")


async def test_attack_platform_that_nobody_endorses(site: Site) -> None:
    stranger = PlatformBoot(PlatformIdentity.generate())
    record = await site.assert_refused(
        await attempt(site, lambda realm, challenge: stranger.token(state_of(realm), challenge)), "verifier.submods", "verifier.status"
    )
    assert record["verdict"] == "refused"


async def test_attack_platform_token_signed_by_another_key_than_the_endorsed_one(site: Site) -> None:
    """All claims are those of the endorsed platform; only the signature is not."""
    forged = PlatformBoot(replace(site.trust.stage.identity, cpak=PlatformIdentity.generate().cpak))
    record = await site.assert_refused(
        await attempt(site, lambda realm, challenge: forged.token(state_of(realm), challenge)), "verifier.submods", "verifier.status"
    )
    assert not {"realm.binding", "realm.signature"} & ids(record)


async def test_attack_rim_claimed_under_a_key_of_ones_own(site: Site) -> None:
    """The realm token of the tampered realm, its RIM overwritten with the wanted one: the signature breaks."""
    wanted = site.realm().rim

    def overwritten(_realm: SimulatedRealm, challenge: bytes) -> bytes:
        tampered = site.realm(lie=Lie.TAMPERED_KERNEL)
        return tampered.token(challenge).replace(tampered.rim, wanted)

    record = await site.assert_refused(await attempt(site, overwritten), "realm.signature", code="realm-token-refused")
    assert "rim.mismatch" not in ids(record)


async def test_attack_challenge_overwritten(site: Site) -> None:
    old = hashlib.sha512(b"an old challenge").digest()

    def overwritten(realm: SimulatedRealm, challenge: bytes) -> bytes:
        return realm.token(old).replace(old, challenge)

    await site.assert_refused(await attempt(site, overwritten), "realm.signature", code="realm-token-refused")


@every_vm
async def test_attack_debug_platform(site: Site, vm: str) -> None:
    await site.assert_refused(await site.attempt(vm, lie=Lie.DEBUG_PLATFORM), "platform.lifecycle", code="platform-refused")


@pytest.mark.parametrize("lifecycle", [0x0000, 0x1000, 0x2000, 0x5000, 0x6000, 0x7000, 0xFFFF])
async def test_attack_platform_in_no_secured_state(site: Site, lifecycle: int) -> None:
    """Signed by the endorsed key: whatever the verifier thinks of the state, the workload wants a secured platform."""
    boot = PlatformBoot(replace(site.trust.stage.identity, lifecycle=lifecycle))
    answer = await attempt(site, lambda realm, challenge: boot.token(state_of(realm), challenge))
    await site.assert_refused(answer, "platform.lifecycle", "token.claim-value")


async def test_attack_published_test_platform(site: Site, vectors) -> None:
    """Real tokens of the vectors have published keys, other challenges and no log."""
    published = sorted((vectors / "tokens" / "valid").glob("*.cbor"))[:4]
    assert published
    for path in published:
        offer = await site.offer()
        answer = await site.submit(offer, Evidence(path.read_bytes(), ()))
        assert answer.status == 403
    assert await site.count("releases") == 0


# --- duplicate keys: two readers, two values --------------------------------------------------------------------------


@every_form
@pytest.mark.parametrize("lie", [Lie.DUPLICATE_KEYS_FORGED_FIRST, Lie.DUPLICATE_KEYS_FORGED_LAST, Lie.DUPLICATE_KEYS_TEXT])
async def test_attack_duplicate_cbor_keys_that_make_us_and_the_verifier_read_different_values(
    site: Site, lie: Lie, form: OuterForm
) -> None:
    realm = site.realm(lie=lie, tokens=TokenStyle(form=form))
    token = realm.token(bytes(64))
    first, last = two_readings(token)
    assert first != last, "the token really has two readings"
    offer = await site.offer()
    record = await site.assert_refused(
        await site.submit(offer, realm.evidence(offer.challenge)), *LIES[lie].findings, code="evidence-malformed"
    )
    assert "attestation-result" not in record["inputs"], "the verifier was not even asked"


def two_readings(token: bytes) -> tuple[object, object]:
    """What a reader that keeps the first and one that keeps the last of equal keys see; text keys count as their integers."""
    body = token[3:]
    count, rest = body[0] & 0x1F, body[1:]
    pairs = []
    for _ in range(count):
        key, used = decode_prefix(rest)
        value, more = decode_prefix(rest[used:])
        rest = rest[used + more :]
        pairs.append((int(key), value))
    assert rest == b""
    return dict(reversed(pairs)), dict(pairs)


def decode_prefix(data: bytes) -> tuple[object, int]:
    stream = BytesIO(data)
    value = cbor2.CBORDecoder(stream, read_size=1).decode()
    return value, stream.tell()


@pytest.mark.parametrize("which", [PLATFORM_KEY, REALM_KEY])
async def test_attack_one_duplicate_member(site: Site, which: int) -> None:
    boot = PlatformBoot(site.trust.stage.identity)

    def doubled(realm: SimulatedRealm, challenge: bytes) -> bytes:
        members = [(PLATFORM_KEY, boot.platform_token), (REALM_KEY, boot.realm_token(state_of(realm), challenge))]
        return collection(OuterForm.CMW, [*members, next(member for member in members if member[0] == which)])

    await site.assert_refused(await attempt(site, doubled), "cbor.duplicate-key", code="evidence-malformed")


async def test_attack_bytes_behind_the_token(site: Site) -> None:
    answer = await attempt(site, lambda realm, challenge: realm.token(challenge) + b"\x00")
    await site.assert_refused(answer, "cbor.trailing-bytes", code="evidence-malformed")


async def test_attack_legacy_profile_where_it_is_not_allowed(site: Site) -> None:
    answer = await site.attempt(tokens=TokenStyle(profile=TokenProfile.LEGACY))
    await site.assert_refused(answer, "token.profile-legacy", code="realm-token-refused")


async def test_a_platform_of_the_same_model_is_another_platform(site: Site) -> None:
    """The workload of this secret names one platform; a second one, endorsed as well, is not it."""
    document = {**VMS[VM].workload_document(VM), "platform": {"instance_ids": ["01" + "22" * 32]}}
    await site.ask("POST", "/admin/v1/workloads", document)
    await site.assert_refused(await site.attempt(), "platform.instance", code="platform-refused")
    document["platform"] = {"instance_ids": [site.trust.stage.identity.instance_id.hex()]}
    await site.ask("POST", "/admin/v1/workloads", document)
    assert await site.fetch() == SECRETS[VM]
