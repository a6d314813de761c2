"""The hostile network of the demo, between a real guest's messages and a broker that is played here."""

import json
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from demo.wire import KEY_REQUEST_TYPE, ChallengeForger, Delayer, KeySwapper, Message, Network, Wire, ask_for_challenge, evidence_path, post

from kbs_rim.evidence import base64url
from kbs_rim.realm.failures import BrokerNotTrusted
from kbs_rim.realm.guest import Exchange
from kbs_rim.sealing.guest_key import commitment, parse_guest_key

SALT = bytes(range(32))


@pytest.fixture
def broker():
    """Answers the first leg as the protocol says and the second with what it got; ``lifetime`` in seconds."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answer, status, server = {"got": body.decode(), "at": datetime.now(UTC).isoformat()}, 200, self.server
            if self.path.startswith("/keys/v1/key/"):
                server.key = parse_guest_key(json.loads(body)["pubkey"])
                challenge = commitment(SALT, server.key.thumbprint)
                answer = {
                    "challenge": base64url.encode(challenge),
                    "salt": base64url.encode(SALT),
                    "accept": ["application/json", "application/vnd.kbs-rim.evidence+json"],
                    "expires": (datetime.now(UTC) + timedelta(seconds=server.lifetime)).isoformat(),
                }
                status = 201
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Location", f"http://{self.headers['Host']}/keys/v1/evidence/5")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.lifetime, server.url = 60, f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def exchange_over(url: str) -> tuple[Exchange, Message]:
    exchange = Exchange(url, "disk-key", ec.generate_private_key(ec.SECP256R1()))
    answer = post(url, Message("/keys/v1/key/disk-key", exchange.key_request(), {"Content-Type": KEY_REQUEST_TYPE}))
    return exchange, answer


def challenge_of(answer: Message) -> bytes:
    return base64url.decode(answer.json["challenge"])


def test_a_harmless_network_changes_nothing_and_remembers_all(broker):
    network = Network()
    with Wire(broker.url, network) as wire:
        exchange, answer = exchange_over(wire.url)
        offer = exchange.read_offer(answer.headers["Location"], answer.body)
        assert offer.location.startswith(wire.url)
        post(wire.url, Message(evidence_path(answer), b"evidence", {"Content-Type": "text/plain"}))
    assert network.evidence.body == b"evidence"
    assert network.evidence.headers["Content-Type"] == "text/plain"
    assert network.last_answer.json["got"] == "evidence"


def test_a_swapped_key_reaches_the_broker_and_the_guest_notices(broker):
    with Wire(broker.url, KeySwapper()) as wire:
        exchange, answer = exchange_over(wire.url)
        assert broker.key.thumbprint != parse_guest_key(json.loads(exchange.key_request())["pubkey"]).thumbprint
        with pytest.raises(BrokerNotTrusted) as refused:
            exchange.read_offer(answer.headers["Location"], answer.body)
    assert refused.value.code == "guest.challenge-not-ours"


def test_a_forged_challenge_satisfies_the_guest_and_is_not_the_brokers(broker):
    with Wire(broker.url, ChallengeForger()) as wire:
        exchange, answer = exchange_over(wire.url)
        offer = exchange.read_offer(answer.headers["Location"], answer.body)
    assert offer.challenge != commitment(SALT, broker.key.thumbprint)


def test_evidence_is_held_back_until_the_challenge_has_expired(broker):
    broker.lifetime = 0.2
    with Wire(broker.url, Delayer()) as wire:
        _, answer = exchange_over(wire.url)
        late = post(wire.url, Message(evidence_path(answer), b"evidence", {}))
    assert datetime.fromisoformat(late.json["at"]) > datetime.fromisoformat(answer.json["expires"])


def test_an_attacker_asks_with_a_key_of_his_own(broker):
    answer, key = ask_for_challenge(broker.url, "disk-key")
    assert (answer.status, evidence_path(answer)) == (201, "/keys/v1/evidence/5")
    numbers = key.public_key().public_numbers()
    assert broker.key.public_key.public_numbers() == numbers
    assert challenge_of(answer) == commitment(SALT, broker.key.thumbprint)
