"""The reference verifier's provisioning API: what Veraison's clients expect, who may, and the whole loop with an appraisal behind it."""

import base64
import json
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp.test_utils import TestClient, TestServer
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kbs_rim.adapters.verifiers.veraison_provisioning import ProvisioningSettings as ClientSettings
from kbs_rim.adapters.verifiers.veraison_provisioning import media_type_of, submit_corim
from kbs_rim.appraisal.corim_document import Comid, Corim, Profile
from kbs_rim.appraisal.corim_signature import Signer, sign_corim
from kbs_rim.appraisal.corim_writer import content_id, encode_corim
from kbs_rim.appraisal.endorsement_files import parse_endorsements
from kbs_rim.appraisal.endorsements import Endorsements, EndorsementStore, RealmReference
from kbs_rim.errors import InvalidDocument
from kbs_rim.limits import Limits
from kbs_rim.realm.simulator import SimulatedRealm
from kbs_rim.reference_verifier.app import Settings, make_app
from kbs_rim.reference_verifier.provisioning import ProvisionedStore, ProvisioningSettings
from kbs_rim.reference_verifier.signing import SigningKey
from tests.reference_verifier.test_verifier_app import opened, submitted
from tests.stage import Stage

TOKEN = "0123456789abcdef-provisioner"
SESSION = "application/vnd.veraison.provisioning-session+json"
SUBMIT = "/endorsement-provisioning/v1/submit"
PLATFORM_TYPE, REALM_TYPE = (media_type_of(profile.value, signed=False) for profile in (Profile.PLATFORM, Profile.REALM))


@pytest.fixture
async def verifier():
    clients = []

    async def start(**options):
        settings = Settings(
            signing_key=SigningKey.generate(),
            endorsements=EndorsementStore([]),
            provisioning=ProvisioningSettings(**{"token": TOKEN, **options.pop("provisioning", {})}),
            **options,
        )
        client = TestClient(TestServer(make_app(settings)))
        await client.start_server()
        clients.append(client)
        return client

    yield start
    for client in clients:
        await client.close()


def realm_corim(rim=b"\x11" * 32, **changes):
    comid = Comid(tag_id="r", endorsements=Endorsements(realms=(RealmReference(rim),)))
    corim = Corim(**{"id": "-", "profile": Profile.REALM, "comids": (comid,), **changes})
    return encode_corim(corim if "id" in changes else replace(corim, id=content_id(corim)))


async def post(client, data, media_type=REALM_TYPE, **headers):
    sent = {"Content-Type": media_type, "Accept": SESSION, "Authorization": f"Bearer {TOKEN}", **headers}
    reply = await client.post(SUBMIT, data=data, headers={name: value for name, value in sent.items() if value is not None})
    return reply.status, json.loads(await reply.read()), reply


async def client_submits(client, data, media_type):
    settings = ClientSettings(url=str(client.make_url("/")), authorization=f"Bearer {TOKEN}", deadline_s=5, request_s=2)
    return await submit_corim(data, media_type, settings)


# --- the whole loop ---------------------------------------------------------------------------------------------------


async def appraised(client, realm, challenge):
    reply = await submitted(client, realm.token(challenge), challenge)
    result = json.loads(await reply.read())["result"]
    claims = json.loads(base64.urlsafe_b64decode(result.split(".")[1] + "=="))
    return {name: submod["ear.status"] for name, submod in claims["submods"].items()}


async def test_a_platform_is_unknown_until_its_corim_is_submitted_and_a_realm_until_its_rim_is(verifier):
    client, stage = await verifier(), Stage()
    realm = SimulatedRealm(stage.simulation())
    assert "CCA_SSD_PLATFORM" not in await appraised(client, realm, stage.challenge)
    await client_submits(client, stage.identity.corim(reference_values=False), PLATFORM_TYPE)
    await client_submits(client, stage.identity.corim(trust_anchor=False), PLATFORM_TYPE)
    known = await appraised(client, realm, stage.challenge)
    assert known == {"CCA_SSD_PLATFORM": "affirming", "CCA_REALM": "warning"}
    await client_submits(client, realm_corim(realm.rim), REALM_TYPE)
    assert await appraised(client, realm, stage.challenge) == {"CCA_SSD_PLATFORM": "affirming", "CCA_REALM": "affirming"}


# --- answers ----------------------------------------------------------------------------------------------------------


async def test_discovery_names_endpoint_and_media_types(verifier):
    client = await verifier()
    reply = await client.get("/.well-known/veraison/provisioning")
    document = await reply.json(content_type=None)
    assert document["api-endpoints"] == {"provisioningSubmit": SUBMIT}
    assert set(document["media-types"]) == {
        media_type_of(profile.value, signed=signed) for profile in (Profile.PLATFORM, Profile.REALM) for signed in (True, False)
    }
    assert "ear-verification-key" not in document


async def test_success_and_failure_are_both_200(verifier):
    client = await verifier()
    status, document, reply = await post(client, realm_corim())
    assert (status, document["status"], reply.content_type) == (200, "success", SESSION)
    assert datetime.fromisoformat(document["expiry"]) > datetime.now(UTC)
    status, document, _ = await post(client, realm_corim())
    assert (status, document["status"]) == (200, "failed")
    assert document["failure-reason"].endswith("submit endorsements failed: token already in store")
    status, document, _ = await post(client, realm_corim(id="x"))
    status, document, _ = await post(client, realm_corim(b"\x22" * 32, id="x"))
    assert document["failure-reason"].endswith('different token with manifest ID "x" already in store')


@pytest.mark.parametrize(
    ("headers", "data", "status"),
    [
        ({"Authorization": None}, b"x", 401),
        ({"Authorization": "Bearer wrong"}, b"x", 401),
        ({"Authorization": f"Basic {TOKEN}"}, b"x", 401),
        ({"Authorization": "Bearer "}, b"x", 401),
        ({"Accept": "application/json"}, b"x", 406),
        ({}, b"", 400),
        ({"Content-Type": "nonsense"}, b"x", 400),
        ({"Content-Type": "application/rim+cbor"}, b"x", 415),
        ({"Content-Type": REALM_TYPE.replace("; ", ";")}, b"x", 415),
        ({"Content-Type": 'application/corim-unsigned+cbor; profile="http://arm.com/cca/realm/1"'}, b"x", 415),
    ],
)
async def test_problems(verifier, headers, data, status):
    client = await verifier()
    found, document, reply = await post(client, data, **headers)
    assert (found, document["status"], reply.content_type) == (status, status, "application/problem+json")
    assert status != 415 or REALM_TYPE in reply.headers["Accept"]
    assert status != 401 or "WWW-Authenticate" in reply.headers


async def test_a_corim_too_large(verifier):
    client = await verifier(limits=Limits(endorsement_bytes=100_000))
    status, _, _ = await post(client, bytes(100_001))
    assert status == 413


async def test_without_a_token_there_is_no_provisioning():
    settings = Settings(signing_key=SigningKey.generate(), endorsements=EndorsementStore([]))
    async with TestClient(TestServer(make_app(settings))) as client:
        assert (await client.post(SUBMIT, data=b"x")).status == 404
        assert (await client.get("/.well-known/veraison/provisioning")).status == 404


@pytest.mark.parametrize("token", ["", "short", "\u00fc" * 20])
def test_a_token_that_can_be_guessed_is_none(token):
    with pytest.raises(ValueError, match="16 ASCII"):
        ProvisioningSettings(token=token)


# --- attacks ----------------------------------------------------------------------------------------------------------


def certificate(key, name="root"):
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key()).serial_number(3)
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    return builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(key, hashes.SHA256())


def submit(data, profile=Profile.REALM, *, signed=False, store=None, **options):
    store = store or ProvisionedStore(EndorsementStore([]), time.time)
    store.submit(data, profile, signed=signed, settings=ProvisioningSettings(token=TOKEN, **options), limits=Limits())
    return store


def refused(finding_id, *arguments, **options):
    with pytest.raises(InvalidDocument) as error:
        submit(*arguments, **options)
    assert error.value.finding_id == finding_id


def test_an_unsigned_corim_where_signatures_are_demanded():
    refused("endorsement.signature", realm_corim(), require_signature=True)


def test_a_signature_that_leads_nowhere():
    key = ec.generate_private_key(ec.SECP256R1())
    data = sign_corim(realm_corim(), Signer(key=key, name="x", chain=(certificate(key),)))
    refused("endorsement.signature", data, signed=True)
    refused("endorsement.signature", data, signed=True, roots=(certificate(ec.generate_private_key(ec.SECP256R1())),))


def test_a_media_type_that_says_something_else_than_the_corim():
    refused("endorsement.profile", realm_corim(), Profile.PLATFORM)
    refused("endorsement.profile", realm_corim(), signed=True)


def test_a_published_trust_anchor(vectors):
    data = (vectors / "corim/services-head/corim-cca-platform-valid.cbor").read_bytes()
    refused("endorsement.test-key", data, Profile.PLATFORM)
    store = submit(data, Profile.PLATFORM, allow_test_keys=True)
    assert store.current.sizes == (1, 1, 0)


def test_a_second_key_for_a_platform_does_not_replace_the_first():
    first, second = Stage().identity, Stage().identity
    store = submit(first.corim(), Profile.PLATFORM)
    stolen = parse_endorsements(first.corim(), at=1).trust_anchors[0]
    forged = Endorsements(trust_anchors=(type(stolen)(stolen.implementation_id, stolen.instance_id, second.cpak.public_key()),))
    data = encode_corim(Corim(id="forged", profile=Profile.PLATFORM, comids=(Comid(tag_id="t", endorsements=forged),)))
    refused("endorsement.duplicate", data, Profile.PLATFORM, store=store)
    assert store.current.trust_anchor(stolen.implementation_id, stolen.instance_id, 1).key == stolen.key


async def test_opened_sessions_are_untouched(verifier):
    client = await verifier()
    path = await opened(client)
    await post(client, realm_corim())
    assert (await client.get(path)).status == 200


def test_the_provisioners_token_is_in_no_repr() -> None:
    assert "a-token-of-provisioners" not in repr(ProvisioningSettings(token="a-token-of-provisioners"))
