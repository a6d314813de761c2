"""The Veraison client against a real verifier on loopback: every way to misbehave ends in a finding or in "unavailable"."""

import asyncio
import datetime
import ipaddress
import json
import ssl
import time

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from yarl import URL

from kbs_rim.adapters.verifiers.veraison import VeraisonSettings, VeraisonVerifier
from kbs_rim.adapters.verifiers.veraison_discovery import read_discovery, resolve
from kbs_rim.adapters.verifiers.veraison_session import read_session
from kbs_rim.appraisal.attestation_result import EarPolicy, judge_attestation_result
from kbs_rim.appraisal.ear_signature import EarKey
from kbs_rim.appraisal.endorsement_files import parse_endorsements
from kbs_rim.appraisal.endorsements import EndorsementStore
from kbs_rim.appraisal.findings import errors_of
from kbs_rim.errors import ConfigurationError, VerifierUnavailable
from kbs_rim.evidence.cca_token import parse_cca_token
from kbs_rim.evidence.media_type import parse_media_type
from kbs_rim.limits import Limits
from kbs_rim.reference_verifier.app import Settings, make_app
from kbs_rim.reference_verifier.faults import EAR_FAULTS, Fault, NonceStyle
from kbs_rim.reference_verifier.signing import SigningKey
from tests.ear_forge import b64, b64url
from tests.token_forge import CHALLENGE, key, token

SIGNING_KEY = SigningKey.generate()
TOKEN = token()
EVIDENCE = 'application/eat-collection; profile="http://arm.com/CCA-SSD/1.0.0"'
SESSION = "application/vnd.veraison.challenge-response-session+json"
DISCOVERY = "application/vnd.veraison.discovery+json"
NEW, WELL_KNOWN = "/challenge-response/v1/newSession", "/.well-known/veraison/verification"


def endorsements():
    numbers = key("cpak").public_key().public_numbers()
    jwk = {"kty": "EC", "crv": "P-384", "x": b64url(numbers.x.to_bytes(48, "big")), "y": b64url(numbers.y.to_bytes(48, "big"))}
    anchor = {"implementation-id": "33" * 32, "instance-id": "01" + "44" * 32, "pkey": jwk}
    component = {"measurement-value": "55" * 32, "signer-id": "66" * 32}
    platform = {"implementation-id": "33" * 32, "platform-configuration": "cfcf", "sw-components": [component]}
    files = [json.dumps(content).encode() for content in ([anchor], {"platform": [platform]})]
    return EndorsementStore([parse_endorsements(file, at=0) for file in files])


STORE = endorsements()


def reference(*faults, **options):
    return make_app(Settings(**{"signing_key": SIGNING_KEY, "endorsements": STORE, "faults": frozenset(faults), **options}))


class Counter:
    """Counts requests by method and path, as a middleware."""

    def __init__(self):
        self.seen = []

    def wrap(self, app):
        @web.middleware
        async def count(request, handler):
            self.seen.append((request.method, request.path.split("/session/")[0]))
            return await handler(request)

        app.middlewares.append(count)
        return app

    def of(self, method, path):
        return self.seen.count((method, path))


@pytest.fixture
async def serving():
    """Starts an application on loopback and returns a client of it."""
    opened = []

    async def start(app, *, limits=None, url=None, tls=None, **options):
        server = TestServer(app)
        await server.start_server(ssl=tls)
        settings = VeraisonSettings(**{"url": url or str(server.make_url("/")), "deadline_s": 5.0, **options})
        client = VeraisonVerifier(settings, limits or Limits())
        opened.append((client, server))
        return client

    yield start
    for client, server in opened:
        await client.close()
        await server.close()


def judged(answer, **options):
    now = int(time.time())
    policy = EarPolicy(**{"keys": (EarKey.from_jwk(SIGNING_KEY.public_jwk()),), **options})
    return judge_attestation_result(
        answer.attestation_result,
        policy,
        token=parse_cca_token(TOKEN),
        challenge=CHALLENGE,
        issued_at=now - 1,
        at=now,
        discovery_keys=answer.discovery_keys,
    )


async def unavailable(client):
    with pytest.raises(VerifierUnavailable) as error:
        await client.appraise(TOKEN, CHALLENGE)
    return str(error.value)


# --- the good path ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", NonceStyle)
async def test_a_good_platform_with_every_generation_of_veraison(serving, style):
    client = await serving(reference(nonce_style=style))
    answer = await client.appraise(TOKEN, CHALLENGE)
    assert judged(answer).findings == ()
    assert judged(answer).statuses == {"CCA_SSD_PLATFORM": "affirming", "CCA_REALM": "warning"}
    assert answer.discovery_keys == (SIGNING_KEY.public_jwk(),)
    assert answer.verifier.startswith("http://127.0.0.1:")
    assert 0 < answer.duration_us < 5_000_000


async def test_discovery_is_fetched_once_and_sessions_are_dropped(serving):
    counter = Counter()
    client = await serving(counter.wrap(reference()))
    for _ in range(3):
        await client.appraise(TOKEN, CHALLENGE)
    await client.check()
    for _ in range(50):
        if counter.of("DELETE", "/challenge-response/v1") == 3:
            break
        await asyncio.sleep(0.01)
    assert counter.of("GET", WELL_KNOWN) == 1
    assert counter.of("DELETE", "/challenge-response/v1") == 3


async def test_discovery_is_single_flight(serving):
    counter = Counter()
    client = await serving(counter.wrap(reference(discovery_max_age_s=60)))
    answers = await asyncio.gather(*(client.appraise(TOKEN, CHALLENGE) for _ in range(8)))
    assert all(judged(answer).affirming for answer in answers)
    assert counter.of("GET", WELL_KNOWN) == 1


async def test_discovery_is_fetched_again_after_its_age(serving):
    counter = Counter()
    client = await serving(counter.wrap(reference(discovery_max_age_s=0)))
    for _ in range(2):
        await client.appraise(TOKEN, CHALLENGE)
    assert counter.of("GET", WELL_KNOWN) == 2


async def test_verifier_behind_a_path(serving):
    outer = web.Application()
    inner = reference()

    async def discover(request):
        document = {"api-endpoints": {"newChallengeResponseSession": f"/veraison{NEW}"}}
        return web.Response(body=json.dumps(document).encode(), headers={"Content-Type": DISCOVERY})

    outer.router.add_get(f"/veraison{WELL_KNOWN}", discover)
    outer.add_subapp("/veraison", inner)
    server = TestServer(outer)
    await server.start_server()
    async with VeraisonVerifier(VeraisonSettings(url=str(server.make_url("/veraison")))) as client:
        answer = await client.appraise(TOKEN, CHALLENGE)
    await server.close()
    assert judged(answer).affirming
    assert answer.discovery_keys == ()


async def test_late_answer_is_polled_for(serving):
    counter = Counter()
    client = await serving(counter.wrap(reference(Fault.PROCESSING)))
    assert judged(await client.appraise(TOKEN, CHALLENGE)).affirming
    assert counter.of("GET", "/challenge-response/v1") == 2


@pytest.mark.parametrize("fault", [Fault.SESSION_LOST_ONCE, Fault.HTTP_500_ONCE])
async def test_one_failure_is_retried(serving, fault):
    counter = Counter()
    client = await serving(counter.wrap(reference(fault)))
    assert judged(await client.appraise(TOKEN, CHALLENGE)).affirming
    assert counter.of("POST", NEW) == 2


async def test_status_may_be_an_integer(serving):
    assert judged(await (await serving(reference(Fault.INTEGER_STATUS))).appraise(TOKEN, CHALLENGE)).affirming


# --- wrong results come back as results, and are judged ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault.REALM_WARNING, set()),
        (Fault.PLATFORM_WARNING, {"verifier.status"}),
        (Fault.CONTRAINDICATED, {"verifier.status"}),
        (Fault.BAD_CRYPTO, {"verifier.submods"}),
        (Fault.MALFUNCTION, {"verifier.vector", "verifier.status", "verifier.realm-status"}),
        (Fault.WRONG_KEY, {"verifier.signature"}),
        (Fault.ROTATED_KEY, {"verifier.signature"}),
        (Fault.ALG_NONE, {"verifier.algorithm"}),
        (Fault.ALG_HS256, {"verifier.algorithm"}),
        (Fault.STALE_IAT, {"verifier.stale"}),
        (Fault.FUTURE_IAT, {"verifier.future"}),
        (Fault.WRONG_NONCE, {"verifier.nonce"}),
        (Fault.MISSING_NONCE, {"verifier.nonce"}),
        (Fault.DUPLICATE_NONCE, {"verifier.malformed"}),
        (Fault.MISSING_REALM, {"verifier.submods"}),
        (Fault.EXTRA_SUBMOD, {"verifier.submods"}),
        (Fault.TRUSTEE_PROFILE, {"verifier.profile"}),
        (Fault.INTEGER_STATUS, set()),
        (Fault.STATUS_ONLY, {"verifier.status"}),
        (Fault.OTHER_EVIDENCE, {"verifier.evidence-mismatch"}),
        (Fault.NO_ANNOTATED_EVIDENCE, {"verifier.evidence-mismatch"}),
    ],
)
async def test_a_wrong_result_is_judged(serving, fault, expected):
    answer = await (await serving(reference(fault))).appraise(TOKEN, CHALLENGE)
    assert {finding.id for finding in errors_of(judged(answer).findings)} == expected


async def test_rotated_key_is_looked_up_once(serving):
    counter = Counter()
    client = await serving(counter.wrap(reference(Fault.ROTATED_KEY)))
    first = await client.appraise(TOKEN, CHALLENGE)
    await client.appraise(TOKEN, CHALLENGE)
    assert counter.of("GET", WELL_KNOWN) == 2
    found = judged(first, keys=(), trust_discovery=True).findings
    assert [finding.id for finding in found] == ["verifier.discovery-key"]


async def test_a_new_key_that_cannot_be_looked_up_does_not_lose_the_answer(serving):
    app, _ = answering()
    calls = []

    @web.middleware
    async def failing_later(request, handler):
        if request.path == WELL_KNOWN:
            calls.append(1)
            if len(calls) > 1:
                return web.Response(status=500)
        return await handler(request)

    app.middlewares.append(failing_later)
    answer = await (await serving(app)).appraise(TOKEN, CHALLENGE)
    assert (answer.attestation_result, len(calls)) == ("a.b.c", 2)


async def test_unknown_key_makes_no_storm_of_discoveries(serving):
    counter = Counter()
    client = await serving(counter.wrap(reference(Fault.WRONG_KEY)))
    for _ in range(4):
        await client.appraise(TOKEN, CHALLENGE)
    assert counter.of("GET", WELL_KNOWN) == 2


async def test_evidence_that_the_verifier_refuses_is_an_answer(serving):
    answer = await (await serving(reference())).appraise(b"junk", CHALLENGE)
    assert "verifier.submods" in [finding.id for finding in judged(answer).findings]


# --- everything else is "unavailable" ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (Fault.DISCOVERY_500, "answered 500 to a request for the discovery document"),
        (Fault.NOT_READY, "not ready: 'INITIALIZING'"),
        (Fault.OTHER_SESSION_NONCE, "another nonce"),
        (Fault.NO_CCA_MEDIA_TYPE, "does not accept application/eat-collection"),
        (Fault.HTTP_500, "answered 500 to a request for evidence: error encountered while processing evidence"),
        (Fault.EMPTY_500, "answered 500 to a request for evidence"),
        (Fault.HTML_502, "answered 502 to a request for evidence"),
        (Fault.REDIRECT, "answered 307 to a request for evidence"),
        (Fault.SESSION_FAILED, "failed to process"),
        (Fault.SESSION_LOST, "answered 404 to a request for evidence: session not found"),
        (Fault.OVERSIZED, "larger than"),
    ],
)
async def test_no_usable_answer(serving, fault, text):
    assert text in await unavailable(await serving(reference(fault)))


@pytest.mark.parametrize("fault", [Fault.DELAY, Fault.PROCESSING_FOREVER])
async def test_one_deadline_for_everything(serving, fault):
    client = await serving(reference(fault, delay_s=30), deadline_s=0.4)
    started = time.monotonic()
    assert await unavailable(client) == "the verifier did not answer within 0.4 s"
    assert time.monotonic() - started < 2


def test_every_fault_is_tried_here():
    tried = {name for name in Fault if name in EAR_FAULTS}
    elsewhere = {Fault.PROCESSING, Fault.SESSION_LOST_ONCE, Fault.HTTP_500_ONCE}
    http = set(list(Fault)[: list(Fault).index(Fault.REALM_WARNING)]) - elsewhere
    marks = [
        mark
        for test in (test_a_wrong_result_is_judged, test_no_usable_answer, test_one_deadline_for_everything)
        for mark in test.pytestmark
    ]
    named = {value[0] if isinstance(value, tuple) else value for mark in marks for value in mark.args[1]}
    assert named >= tried | http | {
        Fault.WRONG_KEY,
        Fault.ROTATED_KEY,
        Fault.ALG_NONE,
        Fault.ALG_HS256,
        Fault.BAD_CRYPTO,
        Fault.DUPLICATE_NONCE,
    }


async def test_nobody_listens():
    client = VeraisonVerifier(VeraisonSettings(url=f"http://127.0.0.1:{unused_port()}", deadline_s=2))
    assert "cannot be reached" in await unavailable(client)
    with pytest.raises(VerifierUnavailable):
        await client.check()
    await client.close()


async def test_readiness(serving):
    await (await serving(reference())).check()
    with pytest.raises(VerifierUnavailable, match="not ready"):
        await (await serving(reference(Fault.NOT_READY))).check()


def silent():
    """An application that takes its time."""
    app, _ = answering()

    @web.middleware
    async def slow(request, handler):
        await asyncio.sleep(30)

    app.middlewares.append(slow)
    return app


async def test_discovery_that_never_comes(serving):
    client = await serving(silent(), deadline_s=0.2)
    with pytest.raises(VerifierUnavailable, match=r"in time|within 0\.2 s"):
        await client.check()


async def test_closing_while_somebody_waits(serving):
    client = await serving(silent())
    waiting = asyncio.create_task(client.check())
    await asyncio.sleep(0.05)
    await client.close()
    with pytest.raises(VerifierUnavailable, match="closed"):
        await waiting
    assert [task for task in asyncio.all_tasks() if task.get_name().startswith("verifier-")] == []


async def test_closed_client_says_so(serving):
    client = await serving(reference())
    await client.appraise(TOKEN, CHALLENGE)
    await client.close()
    await client.close()
    assert "closed" in await unavailable(client)


async def test_closing_ends_what_is_under_way(serving):
    client = await serving(reference(Fault.DELAY, delay_s=30))
    pending = asyncio.create_task(client.appraise(TOKEN, CHALLENGE))
    await asyncio.sleep(0.05)
    pending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pending
    await client.close()
    assert [task for task in asyncio.all_tasks() if task.get_name().startswith("verifier-")] == []


# --- servers that are not Veraison at all -----------------------------------------------------------------------------


def answering(*, discovery=None, session=None, evidence=None, location="session/00000000-0000-0000-0000-000000000001", status=201):
    """An application that gives fixed answers: (status, media type, body) each."""
    document = {"service-state": "READY", "api-endpoints": {"newChallengeResponseSession": NEW}}
    opened = {"status": "waiting", "nonce": b64(CHALLENGE), "accept": [EVIDENCE]}
    answers = {
        "discovery": discovery or (200, DISCOVERY, json.dumps(document)),
        "session": session or (status, SESSION, json.dumps(opened)),
        "evidence": evidence or (200, SESSION, json.dumps({"status": "complete", "result": "a.b.c"})),
    }
    requests = []

    def handler(name, **headers):
        async def answer(request):
            requests.append((name, request.method, dict(request.headers), await request.read(), request.query_string))
            code, media_type, body = answers[name]
            content = body if isinstance(body, bytes) else body.encode()
            return web.Response(status=code, body=content, headers={"Content-Type": media_type, **headers})

        return answer

    app = web.Application()
    app.router.add_get(WELL_KNOWN, handler("discovery"))
    app.router.add_post(NEW, handler("session", **({"Location": location} if location else {})))
    app.router.add_route("*", "/{rest:.*}", handler("evidence"))
    return app, requests


async def test_what_is_sent(serving):
    app, requests = answering()
    client = await serving(app, authorization="Bearer s3cret")
    answer = await client.appraise(TOKEN, CHALLENGE)
    assert answer.attestation_result == "a.b.c"
    discovery, session, evidence = requests[0], requests[1], next(entry for entry in requests if entry[0] == "evidence")
    assert discovery[2]["Accept"] == DISCOVERY
    assert session[4] == "nonce=" + b64url(CHALLENGE) + "%3D%3D"
    assert session[3] == b""
    assert evidence[2]["Content-Type"] == EVIDENCE
    assert evidence[3] == TOKEN
    for entry in (discovery, session, evidence):
        assert entry[2]["Authorization"] == "Bearer s3cret"
        assert entry[2]["Accept-Encoding"] == "identity"
    assert "s3cret" not in repr(client._settings)


async def test_the_verifiers_spelling_is_sent_verbatim(serving):
    odd = 'application/EAT-collection;  profile="http://arm.com/CCA-SSD/1.0.0"'
    types = ["nonsense", "application/psa-attestation-token", 7, odd, EVIDENCE]
    app, requests = answering(session=(201, SESSION, json.dumps({"status": "waiting", "nonce": b64url(CHALLENGE), "accept": types})))
    await (await serving(app)).appraise(TOKEN, CHALLENGE)
    assert next(entry for entry in requests if entry[0] == "evidence")[2]["Content-Type"] == odd


async def test_another_media_type_by_configuration(serving):
    other = 'application/eat+cwt; eat_profile="tag:arm.com,2023:cca_platform#1.0.0"'
    opened = {"status": "waiting", "nonce": b64url(CHALLENGE), "accept": [EVIDENCE, other]}
    app, requests = answering(session=(201, SESSION, json.dumps(opened)))
    await (await serving(app, media_type=other)).appraise(TOKEN, CHALLENGE)
    assert next(entry for entry in requests if entry[0] == "evidence")[2]["Content-Type"] == other


@pytest.mark.parametrize("what", ["discovery", "session", "evidence"])
@pytest.mark.parametrize(
    ("media_type", "body"),
    [
        (None, b""),
        (None, b"{"),
        (None, b"[]"),
        (None, b"null"),
        (None, b"\xff\xfe"),
        (None, b'{"status": "complete", "status": "failed"}'),
        (None, b"[" * 100_000),
        (None, b"{}"),
        ("text/html", b"<html>hello</html>"),
        ("application/problem+json", b"{}"),
    ],
)
async def test_bodies_that_are_no_answer(serving, what, media_type, body):
    usual = DISCOVERY if what == "discovery" else SESSION
    app, _ = answering(**{what: (201 if what == "session" else 200, media_type or usual, body)})
    assert await unavailable(await serving(app))


@pytest.mark.parametrize("status", [200, 204, 400, 401, 403, 406, 415, 429, 503])
async def test_statuses_that_open_no_session(serving, status):
    problem = json.dumps({"title": "x", "detail": "the \x1b[31m detail"})
    app, requests = answering(session=(status, "application/problem+json", problem if status != 204 else b""))
    text = await unavailable(await serving(app))
    assert f"answered {status}" in text
    assert "\x1b" not in text
    assert sum(entry[0] == "session" for entry in requests) == (2 if status >= 500 else 1)


@pytest.mark.parametrize("body", [b"", b"[]", b"7", b'{"detail": 7}', b"[" * 50_000, b"{" * 10, b"\xff"])
async def test_problem_documents_that_are_none(serving, body):
    app, _ = answering(session=(400, "application/problem+json", body))
    assert (await unavailable(await serving(app))).endswith("no detail")


@pytest.mark.parametrize(
    "location", [None, "http://127.0.0.2/session/1", "//evil.example/x", "https://127.0.0.1/x", "http://[", "http://u:p@127.0.0.1/"]
)
async def test_sessions_elsewhere_are_not_followed(serving, location):
    app, requests = answering(location=location)
    assert "Location" in await unavailable(await serving(app))
    assert {entry[0] for entry in requests} == {"discovery", "session"}


async def test_absolute_location_on_the_same_host(serving):
    app, requests = answering(location="/elsewhere/session/7")
    await (await serving(app)).appraise(TOKEN, CHALLENGE)
    assert any(entry[0] == "evidence" for entry in requests)


@pytest.mark.parametrize("endpoint", [None, 7, "", "http://evil.example/", "//evil.example/x", "http://["])
async def test_discovery_that_points_elsewhere(serving, endpoint):
    document = {"api-endpoints": {"newChallengeResponseSession": endpoint}}
    app, requests = answering(discovery=(200, DISCOVERY, json.dumps(document)))
    assert "discovery document" in await unavailable(await serving(app))
    assert {entry[0] for entry in requests} == {"discovery"}


@pytest.mark.parametrize(
    "document",
    [
        {"status": "complete"},
        {"status": "complete", "result": 7},
        {"status": "unheard of", "result": "a.b.c"},
        {"status": ["complete"]},
        {"result": "a.b.c"},
    ],
)
async def test_sessions_without_a_result(serving, document):
    app, _ = answering(evidence=(200, SESSION, json.dumps(document)))
    assert await unavailable(await serving(app))


async def test_endless_answer_is_cut_off(serving):
    app, _ = answering(evidence=(200, SESSION, b"x" * 100_000))
    client = await serving(app, limits=Limits(verifier_response_bytes=50_000))
    assert await unavailable(client) == "the verifier's answer is larger than 50000 bytes"


async def test_connection_closed_without_an_answer():
    async def slam(reader, writer):
        await reader.readline()
        writer.close()

    server = await asyncio.start_server(slam, "127.0.0.1", 0)
    async with server, VeraisonVerifier(VeraisonSettings(url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")) as client:
        assert "cannot be reached" in await unavailable(client)


async def test_garbage_instead_of_http():
    async def garbage(reader, writer):
        await reader.readline()
        writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(garbage, "127.0.0.1", 0)
    async with server, VeraisonVerifier(VeraisonSettings(url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")) as client:
        assert await unavailable(client)


# --- TLS --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """A private CA with a server and a client certificate."""
    folder = tmp_path_factory.mktemp("tls")
    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("ca", "server", "client")}
    now = datetime.datetime.now(datetime.UTC)
    for name, private in keys.items():
        builder = x509.CertificateBuilder().subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
        builder = builder.issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ca")])).public_key(private.public_key())
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
        builder = builder.not_valid_after(now + datetime.timedelta(days=1)).add_extension(x509.BasicConstraints(name == "ca", None), True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(private.public_key()), False)
        builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(keys["ca"].public_key()), False)
        if name == "server":
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        certificate = builder.sign(keys["ca"], hashes.SHA256())
        (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        (folder / f"{name}.key").write_bytes(
            private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
    return folder


def server_context(folder, *, demand_client=False):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    if demand_client:
        context.load_verify_locations(folder / "ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED
    return context


async def test_private_ca(serving, authority):
    client = await serving(reference(), tls=server_context(authority), ca_file=authority / "ca.pem")
    assert judged(await client.appraise(TOKEN, CHALLENGE)).affirming


async def test_unknown_ca_is_refused(serving, authority):
    client = await serving(reference(), tls=server_context(authority))
    assert "cannot be reached" in await unavailable(client)


async def test_client_certificate(serving, authority):
    context = server_context(authority, demand_client=True)
    files = {"client_certificate_file": authority / "client.pem", "client_key_file": authority / "client.key"}
    client = await serving(reference(), tls=context, ca_file=authority / "ca.pem", **files)
    assert judged(await client.appraise(TOKEN, CHALLENGE)).affirming
    anonymous = await serving(reference(), tls=context, ca_file=authority / "ca.pem")
    assert await unavailable(anonymous)


# --- settings and small parts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"url": "ftp://verifier.example"},
        {"url": "verifier.example"},
        {"url": "https://user:password@verifier.example"},
        {"url": "https://verifier.example/?x=1"},
        {"url": "https://verifier.example/#x"},
        {"client_key_file": "key.pem"},
        {"deadline_s": 0},
        {"deadline_s": 121},
        {"media_type": "nonsense"},
    ],
)
def test_settings_that_cannot_be(options):
    with pytest.raises(ConfigurationError, match="verifier"):
        VeraisonSettings(**{"url": "https://verifier.example", **options})


def test_missing_certificate_files(tmp_path):
    with pytest.raises(ConfigurationError, match=r"verifier\.ca_file: .*missing\.pem cannot be read: No such file"):
        VeraisonVerifier(VeraisonSettings(url="https://verifier.example", ca_file=tmp_path / "missing.pem"))
    (tmp_path / "empty.pem").write_text("")
    with pytest.raises(ConfigurationError, match=r"verifier\.ca_file: .*empty\.pem holds no PEM certificate"):
        VeraisonVerifier(VeraisonSettings(url="https://verifier.example", ca_file=tmp_path / "empty.pem"))


@pytest.mark.parametrize(
    ("header", "age"),
    [
        (None, 60),
        ("", 60),
        ("no-store", 60),
        ("max-age=5", 5),
        ("public, max-age=7, x", 7),
        ("max-age=999999999", 3600),
        ("max-age=-1", 60),
    ],
)
def test_max_age(header, age):
    document = {"api-endpoints": {"newChallengeResponseSession": NEW}}
    found = read_discovery(document, URL("https://v.example/"), header, 100.0)
    assert found.expires_at == 100.0 + age
    assert str(found.new_session) == f"https://v.example{NEW}"


def test_resolve_normalises_the_port():
    base = URL("https://v.example/")
    assert str(resolve(base, "https://v.example:443/x")) == "https://v.example/x"
    assert resolve(base, "http://v.example/x") is None
    assert resolve(base, "https://v.example:8443/x") is None


def test_state_is_an_old_name_of_status():
    session = read_session({"state": "complete", "result": "a.b.c", "accept": "x", "nonce": 7})
    assert (session.status, session.result, session.accept, session.nonce) == ("complete", "a.b.c", (), None)
    assert session.spelling_of(parse_media_type(EVIDENCE)) is None
