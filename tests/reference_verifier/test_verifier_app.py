"""The reference verifier over HTTP: Veraison's shapes, texts and oddities, and a real appraisal behind them."""

import asyncio
import base64
import io
import json
import time
from uuid import uuid4

import pytest
from aiohttp.test_utils import TestClient, TestServer
from cryptography.hazmat.primitives import serialization

from kbs_rim.appraisal.endorsement_files import parse_endorsements
from kbs_rim.appraisal.endorsements import EndorsementStore
from kbs_rim.appraisal.published_keys import thumbprint
from kbs_rim.errors import ConfigurationError
from kbs_rim.evidence.media_type import parse_media_type
from kbs_rim.reference_verifier.app import Settings, make_app
from kbs_rim.reference_verifier.faults import Fault, NonceStyle
from kbs_rim.reference_verifier.negotiation import accepts
from kbs_rim.reference_verifier.sessions import SessionStore
from kbs_rim.reference_verifier.signing import SigningKey
from tests.ear_forge import b64, b64url
from tests.token_forge import CHALLENGE, Signed, cose_key, key, parts, token, wrap

SESSION = "application/vnd.veraison.challenge-response-session+json"
DISCOVERY = "application/vnd.veraison.discovery+json"
EVIDENCE = 'application/eat-collection; profile="http://arm.com/CCA-SSD/1.0.0"'
NEW = "/challenge-response/v1/newSession"
PLATFORM, REALM, FAILURE = "CCA_SSD_PLATFORM", "CCA_REALM", "ARM_CCA"
SIGNING_KEY = SigningKey.generate()


def hex_store(instance=b"\x01" + b"\x44" * 32, cpak="cpak", component=b"\x55" * 32, signer=b"\x66" * 32, config=b"\xcf\xcf"):
    """Endorsements for the platform of ``token_forge``, written as rust-ccatoken's stores."""
    numbers = key(cpak).public_key().public_numbers()
    jwk = {"kty": "EC", "crv": "P-384", "x": b64url(numbers.x.to_bytes(48, "big")), "y": b64url(numbers.y.to_bytes(48, "big"))}
    anchors = [{"implementation-id": "33" * 32, "instance-id": instance.hex(), "pkey": jwk}]
    components = [{"component-type": "RMM", "measurement-value": component.hex(), "signer-id": signer.hex(), "version": "1.0"}]
    platform = {"implementation-id": "33" * 32, "sw-components": components, "platform-configuration": config.hex()}
    return [json.dumps(anchors).encode(), json.dumps({"platform": [platform]}).encode()]


def realm_store(rim=b"\x11" * 32, rems=(), rpv=None):
    realm = {"initial-measurement": rim.hex(), "extensible-measurements": [value.hex() for value in rems]}
    if rpv is not None:
        realm["personalization-value"] = rpv.hex()
    return json.dumps({"realm": [realm]}).encode()


def store(*documents):
    return EndorsementStore([parse_endorsements(document, at=int(time.time())) for document in documents])


def settings(*documents, **options):
    return Settings(**{"signing_key": SIGNING_KEY, "endorsements": store(*(documents or hex_store())), **options})


@pytest.fixture
async def verifier():
    """Starts verifiers on loopback."""
    clients = []

    async def start(*documents, **options):
        client = TestClient(TestServer(make_app(settings(*documents, **options))))
        await client.start_server()
        clients.append(client)
        return client

    yield start
    for client in clients:
        await client.close()


def padded(nonce=CHALLENGE):
    return base64.urlsafe_b64encode(nonce).decode()


async def opened(client, nonce=CHALLENGE):
    reply = await client.post(NEW, params={"nonce": padded(nonce)}, headers={"Accept": SESSION})
    assert reply.status == 201
    return f"/challenge-response/v1/{reply.headers['Location']}"


async def submitted(client, evidence, nonce=CHALLENGE, **headers):
    path = await opened(client, nonce)
    return await client.post(path, data=evidence, headers={"Accept": SESSION, "Content-Type": EVIDENCE, **headers})


def claims_of(document):
    return json.loads(base64.urlsafe_b64decode(document["result"].split(".")[1] + "=="))


async def submods(client, evidence=None, nonce=CHALLENGE):
    reply = await submitted(client, token() if evidence is None else evidence, nonce)
    assert reply.status == 200
    document = await reply.json(content_type=None)
    assert document["status"] == "complete"
    return claims_of(document)["submods"]


def nonzero(part):
    return {name: value for name, value in part["ear.trustworthiness-vector"].items() if value}


# --- discovery --------------------------------------------------------------------------------------------------------


async def test_discovery(verifier):
    client = await verifier(discovery_max_age_s=7)
    reply = await client.get("/.well-known/veraison/verification", headers={"Accept": DISCOVERY})
    document = json.loads(await reply.read())
    assert (reply.status, reply.headers["Content-Type"]) == (200, DISCOVERY)
    assert reply.headers["Cache-Control"] == "max-age=7"
    assert reply.headers["Expires"].endswith("GMT")
    assert document["ear-verification-key"] == SIGNING_KEY.public_jwk()
    assert document["api-endpoints"] == {"newChallengeResponseSession": NEW}
    assert document["service-state"] == "READY"
    assert EVIDENCE in document["media-types"]


@pytest.mark.parametrize("accept", ["application/json", "text/html", "application/vnd.veraison.discovery+json2"])
async def test_accept_that_gin_refuses(verifier, accept):
    reply = await (await verifier()).get("/.well-known/veraison/verification", headers={"Accept": accept})
    document = json.loads(await reply.read())
    assert (reply.status, reply.content_type) == (406, "application/problem+json")
    assert document["detail"] == f"the only supported output format is {DISCOVERY}"


@pytest.mark.parametrize(
    ("header", "admitted"),
    [
        (None, True),
        ("*/*", True),
        ("application/*", True),
        (SESSION, True),
        ("application/vnd.veraison", True),
        (f"text/html, {SESSION};q=0.1", True),
        ("application/json", False),
        ("", False),
        (",", False),
        (f"{SESSION}x", False),
    ],
)
def test_accept(header, admitted):
    assert accepts(header, SESSION) is admitted


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH"])
async def test_other_methods_and_paths_are_not_found(verifier, method):
    client = await verifier()
    for path in (NEW, "/", "/endorsement-provisioning/v1/submit"):
        reply = await client.request(method, path)
        assert (reply.status, await reply.text()) == (404, "404 page not found")


# --- sessions ---------------------------------------------------------------------------------------------------------


async def test_session_with_our_nonce(verifier):
    client = await verifier()
    reply = await client.post(NEW, params={"nonce": padded()}, headers={"Accept": SESSION})
    document = json.loads(await reply.read())
    assert (reply.status, reply.headers["Content-Type"]) == (201, SESSION)
    assert reply.headers["Location"].startswith("session/")
    assert set(document) == {"status", "nonce", "expiry", "accept"}
    assert document["status"] == "waiting"
    assert document["nonce"] == b64url(CHALLENGE)
    assert document["expiry"][10] == "T"
    assert len(document["expiry"].split(".")[1]) == len("123456789+00:00")


@pytest.mark.parametrize(
    ("style", "spelled"),
    [(NonceStyle.RELEASE, b64(CHALLENGE)), (NonceStyle.MIDDLE, padded()), (NonceStyle.HEAD, b64url(CHALLENGE))],
)
async def test_nonce_spellings(verifier, style, spelled):
    client = await verifier(nonce_style=style)
    reply = await client.post(NEW, params={"nonce": padded()})
    assert json.loads(await reply.read())["nonce"] == spelled
    unpadded = await client.post(NEW, params={"nonce": b64url(CHALLENGE)})
    assert unpadded.status == (201 if style is NonceStyle.HEAD else 400)


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ({"nonce": padded(bytes(7))}, "nonce must be between 8 and 64 bytes long; got 7"),
        ({"nonce": padded(bytes(65))}, "nonce must be between 8 and 64 bytes long; got 65"),
        ({"nonce": "!"}, "nonce must be valid base64"),
        ({"nonce": "AAAAAAAAAAA+"}, "nonce must be valid base64"),
        ({"nonceSize": "7"}, "nonceSize must be in range 8..64"),
        ({"nonceSize": "65"}, "nonceSize must be in range 8..64"),
        ({"nonceSize": "x"}, "nonceSize must be in range 8..64"),
        ({"nonce": padded(), "nonceSize": "32"}, "nonce and nonceSize are mutually exclusive"),
    ],
)
async def test_nonces_refused(verifier, query, text):
    reply = await (await verifier()).post(NEW, params=query)
    assert (reply.status, json.loads(await reply.read())["detail"]) == (400, f"failed handling nonce request: {text}")


@pytest.mark.parametrize(("query", "size"), [({}, 32), ({"nonceSize": "8"}, 8), ({"nonceSize": "64"}, 64)])
async def test_minted_nonces(verifier, query, size):
    client = await verifier()
    nonces = {json.loads(await (await client.post(NEW, params=query)).read())["nonce"] for _ in range(3)}
    assert {len(base64.urlsafe_b64decode(nonce + "==")) for nonce in nonces} == {size}
    assert len(nonces) == 3


async def test_session_can_be_read_and_dropped(verifier):
    client = await verifier()
    path = await opened(client)
    reply = await client.get(path, headers={"Accept": SESSION})
    assert json.loads(await reply.read())["status"] == "waiting"
    assert (await client.get(path, headers={"Accept": "application/json"})).status == 406
    for _ in range(2):
        assert (await client.delete(path)).status == 204
    id_ = path.rsplit("/", 1)[1]
    reply = await client.get(path)
    assert (reply.status, json.loads(await reply.read())["detail"]) == (404, f"session not found for (id, tenant)=({id_}, 0)")


async def test_session_id_must_be_a_uuid(verifier):
    client = await verifier()
    for method in ("GET", "DELETE"):
        reply = await client.request(method, "/challenge-response/v1/session/7")
        assert reply.status == 400
        assert json.loads(await reply.read())["detail"].startswith("invalid session id (/challenge-response/v1/session/7) in path segment")


async def test_sessions_are_bounded_and_expire(verifier):
    client = await verifier(max_sessions=2, session_ttl_s=0.05)
    first = await opened(client)
    await opened(client)
    reply = await client.post(NEW)
    assert (reply.status, reply.headers["Retry-After"]) == (503, "5")
    await asyncio.sleep(0.06)
    assert (await client.get(first)).status == 404
    await opened(client)


def test_expired_sessions_are_forgotten():
    clock = [0.0]
    sessions = SessionStore(ttl_s=10, maximum=5, now=lambda: clock[0])
    session = sessions.open(bytes(8))
    clock[0] = 9.0
    sessions.renew(session)
    clock[0] = 18.0
    assert sessions.find(session.id) is session
    clock[0] = 19.0
    assert sessions.find(session.id) is None
    sessions.open(bytes(8))
    assert len(sessions) == 1


# --- submitting -------------------------------------------------------------------------------------------------------


async def test_checks_in_order(verifier):
    client = await verifier()
    path = await opened(client)
    unknown = f"/challenge-response/v1/session/{uuid4()}"
    headers = {"Accept": SESSION, "Content-Type": EVIDENCE}
    for target, data, changes, status, text in (
        (path, b"", {"Accept": "application/json"}, 406, "the only supported output format"),
        (path, b"", {"Content-Type": "x"}, 400, "unable to read evidence from the request body"),
        (path, b"x", {"Content-Type": "x"}, 400, "could not check media type with verifier: invalid input parameter"),
        (unknown, b"x", {"Content-Type": "text/plain"}, 415, "no active plugin found for text/plain"),
        ("/challenge-response/v1/session/7", b"x", {}, 400, "invalid session id"),
        (unknown, b"x", {}, 404, "session not found"),
    ):
        reply = await client.post(target, data=data, headers={**headers, **changes})
        assert reply.status == status
        assert json.loads(await reply.read())["detail"].startswith(text)
        if status == 415:
            assert parse_media_type(EVIDENCE) in [parse_media_type(item) for item in reply.headers["Accept"].split(", ")]


@pytest.mark.parametrize(
    "spelling",
    [
        'application/eat-collection;profile="http://arm.com/CCA-SSD/1.0.0"',
        'Application/EAT-collection; profile="http://arm.com/CCA-SSD/1.0.0"',
    ],
)
async def test_another_spelling_of_the_media_type_breaks_the_verifier(verifier, spelling):
    client = await verifier()
    path = await opened(client)
    reply = await client.post(path, data=token(), headers={"Content-Type": spelling})
    assert reply.status == 500
    assert json.loads(await (await client.get(path)).read())["status"] == "failed"


async def test_result_and_echo(verifier):
    evidence = token()
    reply = await submitted(await verifier(), evidence)
    document = json.loads(await reply.read())
    assert (reply.status, reply.headers["Content-Type"]) == (200, SESSION)
    assert document["evidence"] == {"type": EVIDENCE, "value": b64(evidence)}
    header = json.loads(base64.urlsafe_b64decode(document["result"].split(".")[0] + "=="))
    assert header == {"alg": "ES256", "typ": "JWT"}
    claims = claims_of(document)
    assert claims["eat_profile"] == "tag:github.com,2023:veraison/ear"
    assert claims["eat_nonce"] == padded()
    assert abs(claims["iat"] - time.time()) < 5
    assert claims["ear.verifier-id"]["developer"] == "kbs_rim"


async def test_large_evidence_is_refused(verifier):
    assert (await submitted(await verifier(), io.BytesIO(bytes((1 << 16) + 1)))).status == 413


# --- the appraisal ----------------------------------------------------------------------------------------------------


async def test_a_good_platform(verifier):
    found = await submods(await verifier())
    assert set(found) == {PLATFORM, REALM}
    assert found[PLATFORM]["ear.status"] == "affirming"
    assert nonzero(found[PLATFORM]) == dict.fromkeys(
        ("hardware", "instance-identity", "runtime-opaque", "storage-opaque", "configuration", "executables"), 2
    )
    assert found[REALM]["ear.status"] == "warning"
    assert nonzero(found[REALM]) == {"instance-identity": 2, "executables": 33}
    assert set(found[PLATFORM]["ear.trustworthiness-vector"]) == set(found[REALM]["ear.trustworthiness-vector"])
    assert len(found[PLATFORM]["ear.trustworthiness-vector"]) == 8


REMS = [bytes([number]) * 32 for number in range(4)]


@pytest.mark.parametrize(
    ("reference", "executables", "status"),
    [
        (realm_store(), 2, "affirming"),
        (realm_store(rems=REMS), 2, "affirming"),
        (realm_store(rems=REMS, rpv=bytes(64)), 2, "affirming"),
        (realm_store(rems=[*REMS[:3], b"\x99" * 32]), 3, "affirming"),
        (realm_store(rems=REMS, rpv=b"\x01" * 64), 96, "contraindicated"),
        (realm_store(rim=b"\x12" * 32), 33, "warning"),
    ],
)
async def test_realm_reference_values(verifier, reference, executables, status):
    found = await submods(await verifier(*hex_store(), reference))
    assert (found[REALM]["ear.trustworthiness-vector"]["executables"], found[REALM]["ear.status"]) == (executables, status)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"component": b"\x54" * 32}, {"executables": 33}),
        ({"signer": b"\x67" * 32}, {"executables": 33}),
        ({"config": b"\xcf"}, {"configuration": 32}),
    ],
)
async def test_platform_reference_values(verifier, options, expected):
    found = await submods(await verifier(*hex_store(**options)))
    assert found[PLATFORM]["ear.status"] == "warning"
    assert nonzero(found[PLATFORM]) | expected == nonzero(found[PLATFORM])


async def test_no_platform_reference_values(verifier):
    found = await submods(await verifier(hex_store()[0]))
    assert nonzero(found[PLATFORM]).items() >= {"configuration": 32, "executables": 33}.items()


@pytest.mark.parametrize(("lifecycle", "value"), [(0x3000, 2), (0x30FF, 2), (0x4003, 2), (0x5003, 96), (0x2000, 96), (0x6000, 96), (0, 96)])
async def test_lifecycle(verifier, lifecycle, value):
    found = await submods(await verifier(), token(platform={2395: lifecycle}))
    vector = found[PLATFORM]["ear.trustworthiness-vector"]
    assert {vector[name] for name in ("instance-identity", "runtime-opaque", "storage-opaque")} == {value}
    assert found[PLATFORM]["ear.status"] == ("affirming" if value == 2 else "contraindicated")


def failed(found, text):
    assert set(found) == {FAILURE}
    assert set(found[FAILURE]["ear.trustworthiness-vector"].values()) == {99}
    assert found[FAILURE]["ear.status"] == "contraindicated"
    problem = found[FAILURE]["ear.veraison.policy-claims"]["problem"]
    assert problem.startswith(text)
    return problem


async def test_evidence_that_is_no_token(verifier):
    failed(await submods(await verifier(), b"junk"), "could not establish identity from evidence")


async def test_unknown_platform(verifier):
    other = b"\x01" + b"\x45" * 32
    failed(await submods(await verifier(*hex_store(instance=other))), "no trust anchor for evidence")


async def test_platform_signed_by_another_key(verifier):
    failed(await submods(await verifier(*hex_store(cpak="other"))), "integrity validation failed: bad evidence: the platform token")


async def test_replayed_challenge(verifier):
    problem = failed(
        await submods(await verifier(), nonce=bytes(64)), "integrity validation failed: bad evidence: freshness: realm challenge"
    )
    assert CHALLENGE.hex() in problem


async def test_a_short_nonce_is_padded_as_veraison_does(verifier):
    found = await submods(await verifier(), token(realm={10: b"8 bytes!" + bytes(56)}), nonce=b"8 bytes!")
    assert set(found) == {PLATFORM, REALM}


async def test_realm_token_spliced_to_another_platform_token(verifier):
    platform, _ = parts(realm={44237: cose_key(key("another rak"))})
    _, realm = parts()
    failed(await submods(await verifier(), wrap(907, platform.encode(), realm.encode())), "integrity validation failed: bad evidence")


async def test_realm_token_signed_by_another_key(verifier):
    platform, realm = parts()
    forged = Signed(realm.claims, key("another rak"))
    failed(
        await submods(await verifier(), wrap(907, platform.encode(), forged.encode())),
        "integrity validation failed: bad evidence: the realm token",
    )


async def test_published_platforms_and_realms_need_the_switch(verifier, vectors):
    anchors = (vectors / "corim/trustee/tastore.json").read_bytes()
    references = (vectors / "corim/trustee/rvstore.json").read_bytes()
    nonces = json.loads((vectors / "tokens/nonces.json").read_text())
    name = "valid/v04-2023-399-sha256-draft-ffm-00.cbor"
    evidence, nonce = (vectors / "tokens" / name).read_bytes(), bytes.fromhex(nonces[name]["hex"])
    failed(await submods(await verifier(anchors, references), evidence, nonce), "integrity validation failed")
    found = await submods(await verifier(anchors, references, allow_test_keys=True), evidence, nonce)
    assert found[PLATFORM]["ear.status"] == "affirming"


@pytest.mark.parametrize("number", range(1, 9))
async def test_every_public_token_is_affirmed(verifier, vectors, number):
    anchors = (vectors / "corim/trustee/tastore.json").read_bytes()
    nonces = json.loads((vectors / "tokens/nonces.json").read_text())
    (path,) = (vectors / "tokens/valid").glob(f"v0{number}-*.cbor")
    nonce = bytes.fromhex(nonces[f"valid/{path.name}"]["hex"])
    found = await submods(await verifier(anchors, allow_test_keys=True), path.read_bytes(), nonce)
    assert found[PLATFORM]["ear.trustworthiness-vector"]["instance-identity"] == 2


# --- keys -------------------------------------------------------------------------------------------------------------


def test_the_published_signing_key_is_refused(vectors):
    published = SigningKey.load((vectors / "corim/keys/skey.jwk").read_bytes())
    assert published.thumbprint == "xNnfOFTMgZSRM3KtGHQqavZGWGF00Fe54LZBYCIxr88"
    with pytest.raises(ConfigurationError, match="published"):
        settings(signing_key=published)
    settings(signing_key=published, allow_test_keys=True)


def test_signing_key_round_trip():
    again = SigningKey.load(SIGNING_KEY.pem())
    assert again.public_jwk() == SIGNING_KEY.public_jwk()
    assert again.thumbprint == thumbprint(SIGNING_KEY.private.public_key())


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"{", b'{"kty":"EC","crv":"P-256","x":"A","y":"A","d":"A"}', b"-----BEGIN PRIVATE KEY-----"]
)
def test_unreadable_signing_keys(content):
    with pytest.raises(ConfigurationError, match="readable private key"):
        SigningKey.load(content)


def test_a_signing_key_on_another_curve():
    pem = key("p384").private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    with pytest.raises(ConfigurationError, match="P-256"):
        SigningKey.load(pem)


def test_every_fault_has_a_distinct_name():
    assert len({fault.value for fault in Fault}) == len(Fault)
