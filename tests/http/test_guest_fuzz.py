"""Whatever guests send: never a 5xx, never an unhandled error, always a problem document, never a release."""

import json
from urllib.parse import quote

import cbor2
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from kbs_rim.evidence import base64url
from kbs_rim.evidence.envelope import (
    ACCEPTED_MEDIA_TYPES,
    EVIDENCE_JSON_TYPE,
    Evidence,
    encode_evidence_cmw_cbor,
    encode_evidence_json,
    encode_evidence_multipart,
    parse_evidence,
)
from kbs_rim.evidence.tcg_log import LogKind
from kbs_rim.realm.guest import KEY_REQUEST_TYPE
from kbs_rim.realm.simulator import SimulatedRealm
from tests.broker_stage import Logs, Site, assert_says_nothing

quickly = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
jwk_members = st.dictionaries(
    st.sampled_from(["kty", "crv", "x", "y", "n", "e", "d", "k", "alg", "use", "key_ops", "kid", "enc"]),
    st.sampled_from(
        ["EC", "RSA", "OKP", "oct", "P-256", "P-384", "X25519", "ECDH-ES+A256KW", "RSA1_5", "RSA-OAEP", "AQAB", "enc", "A" * 43, ""]
    )
    | json_values,
    max_size=8,
)
header_text = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=60)
media_types = st.sampled_from([*ACCEPTED_MEDIA_TYPES, "multipart/mixed; boundary=x", 'application/cmw+json; cmwc_t="tag:x"']) | header_text
bodies = st.binary(max_size=600) | json_values.map(lambda value: json.dumps(value).encode()) | json_values.map(cbor2.dumps)


@pytest.fixture
async def realm(site: Site) -> SimulatedRealm:
    return site.realm()


def assert_no_error(logs: Logs) -> None:
    assert '"level": "error"' not in logs.text
    assert '"exception":' not in logs.text


def assert_in_order(site: Site, logs: Logs, answer, statuses: set[int]) -> None:
    assert answer.status in statuses, answer
    if answer.status != 201:
        assert answer.headers["Content-Type"].startswith("application/problem+json"), answer
    if answer.status == 403:
        assert_says_nothing(answer)
    assert_no_error(logs)


@quickly
@given(body=bodies | jwk_members.map(lambda jwk: json.dumps({"pubkey": jwk}).encode()), name=st.text(max_size=20))
async def test_any_key_request_is_answered_in_order(site: Site, logs: Logs, body: bytes, name: str) -> None:
    for path in (quote(name, safe=""), "qemu-kernel"):
        url = f"{site.guest_url()}/keys/v1/key/{path}"
        answer = await site.call("POST", url, data=body, headers={"Content-Type": KEY_REQUEST_TYPE})
        assert_in_order(site, logs, answer, {201, 400, 404, 405})


@quickly
@given(jwk=jwk_members)
async def test_a_good_key_with_odd_members_is_taken_or_refused(site: Site, logs: Logs, jwk: dict) -> None:
    good = site.exchange()._own.to_jwk()
    url = f"{site.guest_url()}/keys/v1/key/qemu-kernel"
    body = json.dumps({"pubkey": {**jwk, **good, **{name: jwk[name] for name in list(jwk)[:1]}}}).encode()
    answer = await site.call("POST", url, data=body, headers={"Content-Type": KEY_REQUEST_TYPE})
    assert_in_order(site, logs, answer, {201, 400})


@quickly
@given(body=bodies, media_type=media_types)
async def test_any_evidence_is_refused_in_order(site: Site, logs: Logs, body: bytes, media_type: str) -> None:
    answer = await site.send(await site.offer(), body, media_type.strip() or "x/y")
    assert_in_order(site, logs, answer, {403})
    assert await site.count("releases") == 0


@quickly
@given(data=st.data())
async def test_genuine_evidence_with_something_changed_is_refused_in_order(site: Site, logs: Logs, realm: SimulatedRealm, data) -> None:
    """One byte of token or log changed, cut, or doubled: it is refused with a reason, or it is harmless padding."""
    offer = await site.offer()
    genuine = realm.evidence(offer.challenge)
    token, log = bytearray(genuine.token), bytearray(genuine.logs[0][1])
    used = len(bytes(log).rstrip(b"\0"))
    which, size = data.draw(st.sampled_from([(token, len(token)), (log, used)]))
    position = data.draw(st.integers(0, size - 1))
    kind = data.draw(st.sampled_from(["flip", "cut", "insert", "repeat"]))
    if kind == "flip":
        which[position] ^= data.draw(st.integers(1, 255))
    elif kind == "cut":
        del which[position:]
    elif kind == "insert":
        which[position:position] = data.draw(st.binary(min_size=1, max_size=40))
    else:
        which[position:position] = which[max(0, position - 64) : position] or b"\0"
    evidence = Evidence(bytes(token) or b"\0", ((LogKind.VMM, bytes(log)),))
    answer = await site.submit(offer, evidence)
    if answer.status == 200:
        assert which is log, "every byte of the token counts"
        return
    assert_in_order(site, logs, answer, {403})


ENCODERS = [encode_evidence_json, encode_evidence_cmw_cbor, lambda evidence: encode_evidence_multipart(evidence, "x" * 30)]
TYPES = [EVIDENCE_JSON_TYPE, "application/cmw+cbor", f"multipart/mixed; boundary={'x' * 30}"]


@quickly
@given(kind=st.integers(0, 2), position=st.integers(0, 3000), byte=st.integers(0, 255))
async def test_an_envelope_with_one_byte_changed_is_refused_in_order(
    site: Site, logs: Logs, realm: SimulatedRealm, kind: int, position: int, byte: int
) -> None:
    offer = await site.offer()
    genuine = realm.evidence(offer.challenge)
    body = bytearray(ENCODERS[kind](genuine))
    body[position] = byte
    answer = await site.send(offer, bytes(body), TYPES[kind])
    if answer.status == 200:  # what nobody measures may change: the log says which version the VMM had
        assert parse_evidence(TYPES[kind], bytes(body)).token == genuine.token
        return
    assert_in_order(site, logs, answer, {403})


@quickly
@given(
    claims=st.dictionaries(
        st.integers(-10, 50_000) | st.sampled_from([10, 256, 265, 44235, 44236, 44237, 44238, 44239, 44240]), json_values, max_size=6
    )
)
async def test_a_token_of_random_claims_is_refused_in_order(site: Site, logs: Logs, claims: dict) -> None:
    sign1 = cbor2.dumps(cbor2.CBORTag(18, [cbor2.dumps({1: -35}), {}, cbor2.dumps(claims), bytes(96)]))
    for tag, member in ((399, sign1), (907, [263, sign1])):
        token = cbor2.dumps(cbor2.CBORTag(tag, {44234: member, 44241: member}))
        body = json.dumps({"token": base64url.encode(token)}).encode()
        answer = await site.send(await site.offer(), body, EVIDENCE_JSON_TYPE)
        assert_in_order(site, logs, answer, {403})


@quickly
@given(name=header_text, value=header_text)
async def test_odd_headers_do_no_harm(site: Site, logs: Logs, name: str, value: str) -> None:
    names = ("X-Request-Id", "Host", "Content-Type", "Authorization", "Accept", "X-Forwarded-For", "Content-Encoding", "Expect", "Cookie")
    header = names[len(name) % len(names)]
    if header == "Expect":
        value = "100-continue"
    url = f"{site.guest_url()}/keys/v1/key/qemu-kernel"
    try:
        answer = await site.call("POST", url, data=b"{}", headers={"Content-Type": "application/json", header: value.strip()})
    except ValueError:
        reject()  # our client does not send such a header
    assert answer.status in (400, 415), answer
    assert_no_error(logs)
