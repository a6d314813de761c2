"""Submitting CoRIMs: against a server that behaves as Veraison's, with all its ways to say no, and against servers that do worse."""

import asyncio
import ipaddress
import ssl
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from kbs_rim.adapters.verifiers import veraison_provisioning
from kbs_rim.adapters.verifiers.veraison_provisioning import ProvisioningSettings, media_type_of, submit_corim
from kbs_rim.errors import ConfigurationError, InvalidDocument, VerifierUnavailable

SESSION = "application/vnd.veraison.provisioning-session+json"
PROFILE = "tag:arm.com,2025:cca_realm#1.0.0"
TYPE = f'application/rim+cbor; profile="{PROFILE}"'
EXPIRY = "2026-11-23T12:00:00Z"
FAILED_PREFIX = "submit endorsement returned error: submit endorsements failed: "


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(veraison_provisioning, "_POLL_S", 0.01)
    monkeypatch.setattr(veraison_provisioning, "_RETRY_FIRST_S", 0.01)


def session(status, http=200, headers=None, **members):
    document = {"status": status, "expiry": EXPIRY, **members}
    return web.json_response(document, status=http, content_type=SESSION, headers=headers)


def problem(status, title, detail, headers=None):
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return web.json_response(body, status=status, content_type="application/problem+json", headers=headers)


class Service:
    """Answers submissions with ``answers`` in order (the last one for ever), and polls with ``polls``."""

    def __init__(self, *answers, polls=(), discovery=None):
        self.answers, self.polls, self.discovery = list(answers), list(polls), discovery
        self.seen, self.polled = [], 0
        self.app = web.Application()
        self.app.router.add_post("/endorsement-provisioning/v1/submit", self.submit)
        self.app.router.add_post("/elsewhere/submit", self.submit)
        self.app.router.add_get("/endorsement-provisioning/v1/session/1", self.poll)
        self.app.router.add_get("/.well-known/veraison/provisioning", self.discover)

    @staticmethod
    def next_of(answers):
        return answers.pop(0) if len(answers) > 1 else answers[0]

    async def discover(self, request):
        return self.discovery() if self.discovery else web.Response(status=404, text="404 page not found")

    async def submit(self, request):
        self.seen.append((request.path, dict(request.headers), await request.read()))
        return self.next_of(self.answers)()

    async def poll(self, request):
        self.polled += 1
        return self.next_of(self.polls)()


@pytest.fixture
async def serve():
    servers = []

    async def start(service, tls=None):
        server = TestServer(service.app, scheme="http" if tls is None else "https")
        await server.start_server(**({} if tls is None else {"ssl": tls}))
        servers.append(server)
        return str(server.make_url("/"))

    yield start
    for server in servers:
        await server.close()


async def submit(url, data=b"corim", **options):
    told = []
    settings = ProvisioningSettings(url=url, **{"deadline_s": 5.0, "request_s": 2.0, **options})
    return await submit_corim(data, TYPE, settings, tell=told.append), told


async def refused(url, text, **options):
    with pytest.raises(InvalidDocument) as error:
        await submit(url, **options)
    assert error.value.finding_id == "endorsement.not-accepted"
    assert text in str(error.value)
    return str(error.value)


def test_media_types_are_spelled_as_veraison_looks_them_up():
    assert media_type_of(PROFILE, signed=False) == TYPE
    assert media_type_of(PROFILE, signed=True) == f'application/rim+cose; profile="{PROFILE}"'


async def test_success(serve):
    service = Service(lambda: session("success"))
    outcome, told = await submit(await serve(service), b"the corim", authorization="Bearer abc")
    ((path, headers, body),) = service.seen
    assert (path, body) == ("/endorsement-provisioning/v1/submit", b"the corim")
    assert (headers["Content-Type"], headers["Accept"], headers["Authorization"]) == (TYPE, SESSION, "Bearer abc")
    assert (outcome.attempts, outcome.expiry, outcome.note, told) == (1, EXPIRY, None, [])


@pytest.mark.parametrize("http", [200, 201, 202])
async def test_failed_is_failed_whatever_the_http_code(serve, http):
    reason = FAILED_PREFIX + 'different token with manifest ID "x" already in store'
    service = Service(lambda: session("failed", http, **{"failure-reason": reason}))
    assert "different token" in await refused(await serve(service), FAILED_PREFIX)
    assert len(service.seen) == 1


async def test_the_same_again_is_refused_as_such(serve):
    service = Service(lambda: session("failed", **{"failure-reason": FAILED_PREFIX + "token already in store"}))
    await refused(await serve(service), "token already in store")


async def test_a_lost_answer_is_no_lost_submission(serve):
    """The first attempt was stored, but its answer was a 502 of a proxy: the second one says that it is there."""
    again = {"failure-reason": FAILED_PREFIX + "token already in store"}
    service = Service(lambda: web.Response(status=502, text="<html>"), lambda: session("failed", **again))
    outcome, told = await submit(await serve(service))
    assert (outcome.attempts, outcome.note) == (2, "an earlier attempt, whose answer was lost, had stored it")
    assert "HTTP 502" in told[0]


async def test_another_corim_of_that_id_is_no_success_after_a_lost_answer(serve):
    other = {"failure-reason": FAILED_PREFIX + 'different token with manifest ID "token already in store" already in store'}
    service = Service(lambda: web.Response(status=502), lambda: session("failed", **other))
    await refused(await serve(service), "different token")


async def test_processing_then_success(serve):
    service = Service(
        lambda: session("processing", 201, {"Location": "session/1"}), polls=[lambda: session("processing"), lambda: session("success")]
    )
    url = await serve(service)
    outcome, _ = await submit(url)
    assert outcome.session == f"{url}endorsement-provisioning/v1/session/1"
    assert (service.polled, len(service.seen)) == (2, 1)


async def test_processing_then_failed(serve):
    service = Service(
        lambda: session("processing", 201, {"Location": "session/1"}), polls=[lambda: session("failed", **{"failure-reason": "no"})]
    )
    await refused(await serve(service), "did not take the CoRIM: no")


async def test_a_session_that_is_lost_is_not_a_success(serve):
    service = Service(
        lambda: session("processing", 201, {"Location": "session/1"}), polls=[lambda: problem(404, "Not Found", "session not found")]
    )
    await refused(await serve(service), "session not found")


async def test_processing_for_ever_ends_at_the_deadline(serve):
    service = Service(lambda: session("processing", 202, {"Location": "session/1"}), polls=[lambda: session("processing")])
    with pytest.raises(VerifierUnavailable, match=r"within 0\.3 s"):
        await submit(await serve(service), deadline_s=0.3, request_s=0.2)


async def test_a_session_elsewhere_does_not_get_the_token(serve):
    thief = Service(lambda: session("success"), polls=[lambda: session("success")])
    other = await serve(thief)
    location = f"{other}endorsement-provisioning/v1/session/1"
    service = Service(lambda: session("processing", 201, {"Location": location}))
    with pytest.raises(VerifierUnavailable, match="elsewhere"):
        await submit(await serve(service), authorization="Bearer secret")
    assert thief.polled == 0


async def test_a_redirect_is_not_followed(serve):
    thief = Service(lambda: session("success"))
    other = await serve(thief)
    target = f"{other}endorsement-provisioning/v1/submit"
    service = Service(lambda: web.Response(status=307, headers={"Location": target}))
    await refused(await serve(service), "HTTP 307", authorization="Bearer secret")
    assert not thief.seen


@pytest.mark.parametrize(
    ("status", "title", "detail", "headers", "text"),
    [
        (400, "Bad Request", "empty body", None, "HTTP 400: Bad Request: empty body"),
        (401, "Unauthorized", "wrong role", {"WWW-Authenticate": "Basic realm=veraison"}, "HTTP 401: Unauthorized: wrong role"),
        (406, "Not Acceptable", "the only supported output format is x", None, "HTTP 406"),
        (415, "Unsupported Media Type", "no active plugin found", {"Accept": TYPE}, f"(it takes {TYPE})"),
    ],
)
async def test_problem_documents_are_shown(serve, status, title, detail, headers, text):
    service = Service(lambda: problem(status, title, detail, headers))
    await refused(await serve(service), text)
    assert len(service.seen) == 1


async def test_what_would_move_the_cursor_is_not_shown_raw(serve):
    service = Service(lambda: session("failed", **{"failure-reason": "\x1b[2J" + "x" * 9000}))
    message = await refused(await serve(service), r"\x1b[2J")
    assert "\x1b" not in message
    assert len(message) < 700


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_what_may_be_gone_later_is_tried_again(serve, status):
    busy = problem(status, "Busy", "later", {"Retry-After": "0"})
    service = Service(lambda: problem(status, "Busy", "later", {"Retry-After": "0"}), lambda: session("success"))
    outcome, told = await submit(await serve(service))
    assert outcome.attempts == 2
    assert busy.status == status
    assert told == [f"POST /endorsement-provisioning/v1/submit: HTTP {status}: Busy: later; trying again in 0 s"]


async def test_attempts_end(serve):
    service = Service(lambda: problem(503, "Service Unavailable", "down"))
    with pytest.raises(VerifierUnavailable, match="down"):
        await submit(await serve(service), attempts=3)
    assert len(service.seen) == 3


async def test_nobody_listens():
    with pytest.raises(VerifierUnavailable):
        await submit("http://127.0.0.1:9/", attempts=2)


async def test_a_service_that_never_answers(serve):
    service = Service()
    stuck = asyncio.Event()

    async def hang(request):
        await stuck.wait()

    service.app.router.add_post("/stuck/submit", hang)
    url = await serve(service)
    with pytest.raises(VerifierUnavailable, match=r"within 0\.4 s"):
        await submit(f"{url}stuck/submit", deadline_s=0.4, request_s=0.2)
    stuck.set()


@pytest.mark.parametrize("body", [b"", b"ok", b"[]", b'{"status":"success","status":"failed"}', b'{"status":"accepted"}', b"{}"])
async def test_an_unreadable_answer_is_no_success(serve, body):
    service = Service(lambda: web.Response(body=body, content_type="application/json"))
    with pytest.raises(VerifierUnavailable):
        await submit(await serve(service))


async def test_an_endless_answer_is_cut(serve):
    service = Service(lambda: web.Response(body=b" " * (1 << 20)))
    with pytest.raises(VerifierUnavailable, match="too large"):
        await submit(await serve(service))


# --- discovery --------------------------------------------------------------------------------------------------------


async def test_the_discovery_document_names_the_endpoint(serve):
    document = {"api-endpoints": {"provisioningSubmit": "/elsewhere/submit"}}
    service = Service(lambda: session("success"), discovery=lambda: web.json_response(document))
    await submit(await serve(service))
    assert service.seen[0][0] == "/elsewhere/submit"


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"api-endpoints": 5},
        {"api-endpoints": {"provisioningSubmit": 5}},
        {"api-endpoints": {"provisioningSubmit": "http://127.0.0.1:1/x"}},
    ],
)
async def test_a_discovery_document_that_leads_away_is_not_followed(serve, document):
    service = Service(lambda: session("success"), discovery=lambda: web.json_response(document))
    await submit(await serve(service))
    assert service.seen[0][0] == "/endorsement-provisioning/v1/submit"


async def test_an_endpoint_may_be_given(serve):
    service = Service(lambda: session("success"))
    await submit(f"{await serve(service)}elsewhere/submit")
    assert service.seen[0][0] == "/elsewhere/submit"


# --- settings and TLS -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["ftp://x/", "https://", "https://user@x/", "https://x/?a=1", "https://x/#f", "veraison:9443"])
def test_bad_addresses(url):
    with pytest.raises(ConfigurationError):
        ProvisioningSettings(url=url)


def test_a_token_is_not_shown():
    assert "secret" not in repr(ProvisioningSettings(url="https://x/", authorization="Bearer secret"))


@pytest.fixture
def certificate(tmp_path):
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(private.public_key()).serial_number(1)
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = builder.add_extension(names, critical=False).add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    found = builder.sign(private, hashes.SHA256())
    chain = tmp_path / "ca.pem"
    chain.write_bytes(found.public_bytes(Encoding.PEM))
    both = tmp_path / "both.pem"
    both.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + found.public_bytes(Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    return chain, context


async def test_tls_with_a_private_authority(serve, certificate):
    ca_file, context = certificate
    service = Service(lambda: session("success"))
    outcome, _ = await submit(await serve(service, context), ca_file=ca_file)
    assert outcome.attempts == 1


async def test_a_certificate_nobody_trusts_ends_it_at_once(serve, certificate):
    service = Service(lambda: session("success"))
    with pytest.raises(VerifierUnavailable, match="certificate"):
        await submit(await serve(service, certificate[1]), authorization="Bearer secret")
    assert not service.seen


async def test_a_ca_file_that_is_none(tmp_path):
    bad = tmp_path / "ca.pem"
    bad.write_text("x")
    with pytest.raises(ConfigurationError, match="authorities"):
        await submit("https://127.0.0.1:1/", ca_file=bad)
