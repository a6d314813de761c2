"""The honest path, end to end over sockets: three VMs, every kind of key, every envelope, and clients of the old protocol."""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from kbs_rim.evidence import base64url
from kbs_rim.evidence.envelope import (
    ACCEPTED_MEDIA_TYPES,
    CMW_CBOR_TYPE,
    CMW_JSON_TYPE,
    EAT_COLLECTION_TYPE,
    EVIDENCE_JSON_TYPE,
    encode_evidence_cmw_cbor,
    encode_evidence_cmw_json,
    encode_evidence_json,
    encode_evidence_multipart,
)
from kbs_rim.realm.guest import KeyType, Offer
from kbs_rim.realm.rim_model import RmmGeneration
from kbs_rim.realm.simulator import TokenStyle
from kbs_rim.realm.token_factory import OuterForm, TokenProfile
from kbs_rim.reference_verifier.faults import Fault, NonceStyle
from tests.broker_stage import SECRETS, VMS, Logs, Site, Starter

OAEP = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)  # what RFC 7518 calls RSA-OAEP
VM = "qemu-kernel"
ENVELOPES = {
    EVIDENCE_JSON_TYPE: encode_evidence_json,
    CMW_CBOR_TYPE: encode_evidence_cmw_cbor,
    CMW_JSON_TYPE: encode_evidence_cmw_json,
    "multipart/mixed; boundary=xyz": lambda evidence: encode_evidence_multipart(evidence, "xyz"),
}


def uint(number: int) -> str:
    return urlsafe_b64encode(number.to_bytes((number.bit_length() + 7) // 8, "big")).rstrip(b"=").decode()


class OldClient:
    """A client of keybroker-demo's protocol: knows neither salt nor JWE, and asks in plain JSON."""

    def __init__(self, algorithm: str, bits: int = 2048) -> None:
        self.key = rsa.generate_private_key(65537, bits)
        numbers = self.key.public_key().public_numbers()
        self.jwk = {"kty": "RSA", "alg": algorithm, "n": uint(numbers.n), "e": uint(numbers.e)}

    async def request(self, site: Site, name: str = VM):
        body = json.dumps({"pubkey": self.jwk})
        return await site.call("POST", f"{site.guest_url()}/keys/v1/key/{name}", data=body, headers={"Content-Type": "application/json"})

    async def offer(self, site: Site) -> Offer:
        answer = await self.request(site)
        assert answer.status == 201, answer
        return Offer(urlsafe_b64decode(answer.document["challenge"] + "=="), answer.headers["Location"])

    def open(self, data: str, scheme) -> bytes:
        return self.key.decrypt(urlsafe_b64decode(data + "=" * (-len(data) % 4)), scheme)


@pytest.mark.parametrize("vm", VMS)
async def test_each_vm_gets_its_own_secret(site: Site, vm: str) -> None:
    assert await site.fetch(vm) == SECRETS[vm]
    [record] = await site.appraisals()
    assert (record["verdict"], record["workload"], record["workload_revision"], record["secret"]) == ("allowed", vm, 1, vm)
    [release] = (await site.record(record["id"]))["releases"]
    assert (release["secret"], release["version"], release["sealing"]) == (f"vault/disk/{vm}", 1, "ECDH-ES+A256KW")


@pytest.mark.parametrize("kind", list(KeyType))
async def test_each_kind_of_key_gets_the_secret(site: Site, kind: KeyType) -> None:
    assert await site.fetch(key=kind) == SECRETS[VM]


async def test_a_secret_is_asked_for_by_its_path_too(site: Site) -> None:
    exchange = site.exchange(f"vault/disk/{VM}")
    offer = await site.offer(exchange)
    answer = await site.submit(offer, site.realm().evidence(offer.challenge))
    assert exchange.read_secret(answer.body).value == SECRETS[VM]


@pytest.mark.parametrize("media_type", ENVELOPES)
async def test_each_envelope_is_read(site: Site, media_type: str) -> None:
    exchange = site.exchange()
    offer = await site.offer(exchange)
    answer = await site.send(offer, ENVELOPES[media_type](site.realm().evidence(offer.challenge)), media_type)
    assert answer.status == 200, answer
    assert exchange.read_secret(answer.body).value == SECRETS[VM]


@pytest.mark.parametrize("generation", list(RmmGeneration))
@pytest.mark.parametrize("form", list(OuterForm))
async def test_each_rmm_and_each_form_of_a_token_gets_the_secret(site: Site, generation: RmmGeneration, form: OuterForm) -> None:
    assert await site.fetch(generation=generation, tokens=TokenStyle(form=form, profile=TokenProfile.P2024_R2024)) == SECRETS[VM]


async def test_the_newest_version_leaves_and_an_erased_one_never(site: Site) -> None:
    newer = b"a newer disk key"
    await site.ask("POST", f"/admin/v1/secrets/vault/disk/{VM}/versions", {"value": base64url.encode(newer)})
    assert await site.fetch() == newer
    await site.ask("POST", f"/admin/v1/secrets/vault/disk/{VM}/versions/2/revoke")
    assert await site.fetch() == SECRETS[VM]
    await site.ask("POST", f"/admin/v1/secrets/vault/disk/{VM}/versions/1/revoke")
    answer = await site.attempt()
    assert (answer.status, answer.code) == (403, "not-authorized")
    record = (await site.record(answer.document["ticket"]))["appraisal"]
    assert [finding["id"] for finding in record["findings"]] == ["policy.secret-revoked"]


async def test_the_offer_says_what_it_is(site: Site) -> None:
    answer = await site.request_key(site.exchange())
    assert answer.status == 201
    assert set(answer.document) == {"challenge", "accept", "salt", "expires"}
    assert answer.document["accept"] == list(ACCEPTED_MEDIA_TYPES)
    assert answer.headers["Location"].startswith(site.guest_url() + "/keys/v1/evidence/")
    assert answer.headers["Cache-Control"] == "no-store"


async def test_whether_a_secret_exists_is_said_to_nobody_who_did_not_attest(site: Site) -> None:
    known, unknown = await site.request_key(site.exchange()), await site.request_key(site.exchange("no-such-secret"))
    assert (known.status, unknown.status) == (201, 201)
    assert {name: len(str(value)) for name, value in known.document.items()} == {
        name: len(str(value)) for name, value in unknown.document.items()
    }
    exchange = site.exchange("no-such-secret")
    offer = await site.offer(exchange)
    answer = await site.submit(offer, site.realm().evidence(offer.challenge))
    await site.assert_refused(answer, "request.secret-unknown")


async def test_location_has_the_public_url_when_one_is_configured(start: Starter) -> None:
    site = await start(guest={"public_url": "https://kbs.example"})
    answer = await site.request_key(site.exchange())
    assert answer.headers["Location"].startswith("https://kbs.example/keys/v1/evidence/")


async def test_the_record_tells_what_was_judged(site: Site) -> None:
    realm = site.realm()
    exchange = site.exchange()
    offer = await site.offer(exchange)
    evidence = realm.evidence(offer.challenge)
    url = site.guest_url() + offer.location[offer.location.index("/keys/") :]
    headers = {"Content-Type": EVIDENCE_JSON_TYPE, "X-Request-Id": "asked-by-a-test"}
    answer = await site.call("POST", url, data=encode_evidence_json(evidence), headers=headers)
    assert answer.headers["X-Request-Id"] == "asked-by-a-test"
    shown = await site.record(answer.document["ticket"])
    record = shown["appraisal"]
    assert record["config_digest"] == site.settings.digest()
    assert record["request_id"] == "asked-by-a-test"
    assert record["software"].startswith("kbs_rim ")
    assert record["facts"]["rim"] == realm.rim.hex()
    assert record["facts"]["challenge"] == offer.challenge.hex()
    assert record["facts"]["dialect"] == "rmm-1.0/4k/log"
    assert set(record["durations_us"]) == {"read", "log", "verifier", "registry", "appraise"}
    assert set(record["inputs"]) == {"token", "log.vmm", "attestation-result"}
    for kind, content in (("token", evidence.token), ("log.vmm", evidence.logs[0][1])):
        payload = await site.ask("GET", f"/audit/v1/payloads/{record['inputs'][kind]}", who="auditor")
        assert payload.body == content
    assert shown["releases"][0]["key_thumbprint"] == exchange._own.thumbprint.hex()


async def test_payloads_are_not_kept_where_the_configuration_says_so(start: Starter) -> None:
    site = await start(appraisal={"keep_payloads": False})
    assert await site.fetch() == SECRETS[VM]
    [record] = await site.appraisals()
    answer = await site.ask("GET", f"/audit/v1/payloads/{record['inputs']['token']}")
    assert (answer.status, answer.code) == (404, "record.payload-unknown")


@pytest.mark.parametrize("style", list(NonceStyle))
async def test_each_generation_of_verifiers_is_understood(start: Starter, style: NonceStyle) -> None:
    site = await start(faults={Fault.PROCESSING}, verifier={"nonce_style": style})
    assert await site.fetch() == SECRETS[VM]


# --- clients of the old protocol --------------------------------------------------------------------------------------


async def test_an_old_client_gets_the_bare_rsa_oaep_ciphertext(site: Site) -> None:
    client = OldClient("RSA-OAEP")
    offer = await client.offer(site)
    answer = await site.submit(offer, site.realm().evidence(offer.challenge))
    assert answer.status == 200, answer
    assert client.open(answer.document["data"], OAEP) == SECRETS[VM]
    [release] = (await site.record(answer.document["ticket"]))["releases"]
    assert release["sealing"] == "RSA-OAEP"


async def test_rsa1_5_is_refused_while_its_switch_is_off(site: Site) -> None:
    answer = await OldClient("RSA1_5").request(site)
    assert (answer.status, answer.code) == (400, "key.legacy")
    assert await site.count("challenges") == 0


@pytest.mark.parametrize("bits", [1024, 2048])
async def test_rsa1_5_works_only_behind_its_switch_which_shouts(start: Starter, logs: Logs, bits: int) -> None:
    site = await start(secrets={"legacy_rsa1_5": True})
    client = OldClient("RSA1_5", bits)
    offer = await client.offer(site)
    answer = await site.submit(offer, site.realm().evidence(offer.challenge))
    assert answer.status == 200, answer
    assert client.open(answer.document["data"], padding.PKCS1v15()) == SECRETS[VM]
    assert any("legacy_rsa1_5" in line["event"] for line in logs.lines if line["level"] == "warning")
    metrics = await site.ask("GET", "/metrics", who=None)
    assert b"kbs_rim_legacy_rsa1_5_enabled 1.0" in metrics.body


async def test_an_old_client_that_sends_its_token_as_text_is_judged_and_lacks_only_the_log(site: Site) -> None:
    offer = await OldClient("RSA-OAEP").offer(site)
    token = site.realm().token(offer.challenge)
    record = await site.assert_refused(await site.send(offer, urlsafe_b64encode(token).rstrip(b"="), EAT_COLLECTION_TYPE), "log.missing")
    errors = [finding["id"] for finding in record["findings"] if finding["severity"] == "error"]
    assert errors == ["log.missing", "rim.not-judged", "boot.not-judged"]


async def test_a_secret_too_long_for_bare_rsa_is_refused_and_not_cut(site: Site) -> None:
    await site.ask("POST", f"/admin/v1/secrets/vault/disk/{VM}/versions", {"value": base64url.encode(bytes(4096))})
    offer = await OldClient("RSA-OAEP").offer(site)
    answer = await site.submit(offer, site.realm().evidence(offer.challenge))
    await site.assert_refused(answer, "key.capacity")
    assert await site.fetch(key=KeyType.RSA) == bytes(4096)


# --- refusals before any appraisal ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a/b/c/d", ".hidden", "a//b", "a%00", "a%0A", "-a", "%C3%A4", "a" * 65, "a b"])
async def test_a_name_that_no_secret_has_is_no_route(site: Site, name: str) -> None:
    answer = await OldClient("RSA-OAEP").request(site, name)
    assert answer.status == 404, answer
    assert await site.count("challenges") == 0


@pytest.mark.parametrize(
    ("body", "media_type", "status", "code"),
    [
        (b"", "application/json", 400, "envelope.malformed"),
        (b"{}", "application/json", 400, "key.malformed"),
        (b'{"pubkey":1}', "application/json", 400, "key.malformed"),
        (b'{"pubkey":{},"pubkey":{}}', "application/json", 400, "envelope.malformed"),
        (b'{"pubkey":{},"more":1}', "application/json", 400, "key.malformed"),
        (b'{"pubkey":{"kty":"oct","k":"AAAA"}}', "application/json", 400, "key.private"),
        (b'{"pubkey":{}}', "text/plain", 415, "media-type"),
        (b'{"pubkey":"' + b"A" * 20_000 + b'"}', "application/json", 413, "too-large"),
    ],
)
async def test_a_key_request_that_is_none(site: Site, body: bytes, media_type: str, status: int, code: str) -> None:
    url = f"{site.guest_url()}/keys/v1/key/{VM}"
    answer = await site.call("POST", url, data=body, headers={"Content-Type": media_type})
    assert (answer.status, answer.code) == (status, code)
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    assert await site.count("challenges") == 0


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"])
@pytest.mark.parametrize("path", ["/keys/v1/key/x", "/keys/v1/evidence/" + "0" * 48])
async def test_guests_may_only_post(site: Site, method: str, path: str) -> None:
    assert (await site.call(method, site.guest_url() + path)).status == 405


@pytest.mark.parametrize("path", ["/", "/healthz", "/metrics", "/admin/v1/images", "/audit/v1/appraisals", "/keys", "/keys/v1/key/"])
async def test_guests_see_nothing_but_their_two_routes(site: Site, path: str) -> None:
    answer = await site.ask("GET", path)
    guest = await site.call("GET", site.guest_url() + path, headers={"Authorization": f"Bearer {site.trust.tokens['admin']}"})
    assert (guest.status, guest.code) == (404, "no-such-route")
    assert answer.status in (200, 404)


async def test_evidence_without_a_body(site: Site) -> None:
    answer = await site.send(await site.offer(), b"", EVIDENCE_JSON_TYPE)
    await site.assert_refused(answer, "envelope.malformed", code="evidence-malformed")


async def test_evidence_of_an_unknown_type_leaves_a_record_with_the_body(site: Site) -> None:
    record = await site.assert_refused(await site.send(await site.offer(), b"hello", "text/plain"), "envelope.media-type")
    payload = await site.ask("GET", f"/audit/v1/payloads/{record['inputs']['body']}")
    assert payload.body == b"hello"


async def test_a_deprecated_image_is_warned_about_and_works(site: Site) -> None:
    images = (await site.get("/admin/v1/images"))["images"]
    kernel = next(image for image in images if image["roles"] == ["kernel"])
    await site.ask("POST", f"/admin/v1/images/{kernel['id']}/state", {"state": "deprecated", "reason": "a newer one is out"})
    assert await site.fetch() == SECRETS[VM]
    [record] = await site.appraisals()
    assert "boot.image-deprecated" in [finding["id"] for finding in record["findings"]]
