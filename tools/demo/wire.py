"""The network between guests and broker, in the hands of somebody hostile: it may listen, hold back and change messages.

Only the guest protocol passes here (HTTP on loopback); ``kbs_rim`` is used to make messages, as any attacker could.
"""

import http.client
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from secrets import token_bytes
from threading import Thread
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric import ec

from kbs_rim.evidence import base64url
from kbs_rim.sealing.guest_key import commitment, guest_key_of, parse_guest_key

_TIMEOUT_S = 60
_KEY_PATH = "/keys/v1/key/"
_PASSED_ON = ("Content-Type", "Location", "Retry-After")
KEY_REQUEST_TYPE = "application/vnd.veraison.keybroker.background-check-key-request+json"


@dataclass(frozen=True, slots=True)
class Message:
    """A POST request, or with ``status`` an answer to one."""

    path: str
    body: bytes
    headers: Mapping[str, str]
    status: int = 0

    @property
    def json(self) -> dict[str, Any]:
        """The body as JSON object; empty if it is none."""
        try:
            document = json.loads(self.body)
        except ValueError:
            return {}
        return document if isinstance(document, dict) else {}

    def with_json(self, document: Mapping[str, Any]) -> "Message":
        """Return the message with another body."""
        return replace(self, body=json.dumps(document).encode())


def post(broker_url: str, message: Message) -> Message:
    """Send a request to a broker and return its answer."""
    parts = urlsplit(broker_url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=_TIMEOUT_S)
    try:
        with suppress(BrokenPipeError, ConnectionResetError):  # a broker may answer, and stop reading, before it has everything
            connection.request("POST", message.path, message.body, dict(message.headers))
        response = connection.getresponse()
        return Message(message.path, response.read(), dict(response.getheaders()), response.status)
    finally:
        connection.close()


def ask_for_challenge(broker_url: str, secret: str) -> tuple[Message, ec.EllipticCurvePrivateKey]:
    """Ask for a secret with a key of the attacker's own; return the answer and the key."""
    key = ec.generate_private_key(ec.SECP256R1())
    return post(broker_url, Message(_KEY_PATH + secret, _key_request(key), {"Content-Type": KEY_REQUEST_TYPE})), key


def evidence_path(answer: Message) -> str:
    """Where the evidence for a challenge goes."""
    return urlsplit(answer.headers["Location"]).path


def _key_request(key: ec.EllipticCurvePrivateKey) -> bytes:
    return json.dumps({"pubkey": dict(guest_key_of(key.public_key()).to_jwk())}).encode()


# --- what the network does --------------------------------------------------------------------------------------------


class Network:
    """Passes every message on and remembers it."""

    def __init__(self) -> None:
        self.seen: list[tuple[Message, Message]] = []

    def request(self, message: Message) -> Message:
        """Return the request that the broker gets."""
        return message

    def answer(self, request: Message, answer: Message) -> Message:
        """Return the answer that the guest gets; ``request`` is what the guest had sent."""
        self.seen.append((request, answer))
        return answer

    @property
    def evidence(self) -> Message:
        """The last evidence that passed by."""
        return next(request for request, _ in reversed(self.seen) if not request.path.startswith(_KEY_PATH))

    @property
    def last_answer(self) -> Message:
        """The last thing that the broker said."""
        return self.seen[-1][1]


class KeySwapper(Network):
    """Puts a key of its own in place of the guest's. If the realm attests for it, the secret is sealed to the attacker."""

    def __init__(self) -> None:
        super().__init__()
        self._key = ec.generate_private_key(ec.SECP256R1())

    def request(self, message: Message) -> Message:
        """Swap the key in the first request."""
        return replace(message, body=_key_request(self._key)) if message.path.startswith(_KEY_PATH) else message


class ChallengeForger(KeySwapper):
    """Swaps the key, and gives the guest a challenge of its own making that commits to the guest's key, so that it goes on."""

    def answer(self, request: Message, answer: Message) -> Message:
        """Replace challenge and salt in the first answer."""
        answer = super().answer(request, answer)
        if not request.path.startswith(_KEY_PATH) or answer.status != 201:
            return answer
        salt = token_bytes(32)
        challenge = commitment(salt, parse_guest_key(request.json["pubkey"]).thumbprint)
        forged = {"challenge": base64url.encode(challenge), "salt": base64url.encode(salt)}
        return answer.with_json({**answer.json, **forged})


class Delayer(Network):
    """Holds evidence back until its challenge has expired."""

    def __init__(self) -> None:
        super().__init__()
        self._expires = datetime.now(UTC)

    def request(self, message: Message) -> Message:
        """Wait with the second request."""
        if not message.path.startswith(_KEY_PATH):
            time.sleep(max(0.0, (self._expires - datetime.now(UTC)).total_seconds() + 0.1))
        return message

    def answer(self, request: Message, answer: Message) -> Message:
        """Note when the challenge expires."""
        answer = super().answer(request, answer)
        if request.path.startswith(_KEY_PATH) and answer.status == 201:
            self._expires = datetime.fromisoformat(answer.json["expires"])
        return answer


# --- carrying it out --------------------------------------------------------------------------------------------------


class Wire:
    """A listener on loopback that passes requests to a broker in the way of a ``Network``. A context manager."""

    def __init__(self, broker_url: str, network: Network) -> None:
        self._server = _Server(broker_url, network)
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        """What guests take for the broker."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, broker_url: str, network: Network) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.broker_url, self.network = broker_url, network


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        """Carry one exchange."""
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        # The Host header goes along, so that the broker's Location leads through here again.
        headers = {name: value for name in ("Content-Type", "Host") if (value := self.headers.get(name))}
        request = Message(self.path, body, headers)
        network = self.server.network
        answer = network.answer(request, post(self.server.broker_url, network.request(request)))
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            if name in _PASSED_ON:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, *_arguments: Any) -> None:
        """Say nothing."""
