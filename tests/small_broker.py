"""The key broker protocol with the real sealing and no appraisal, and a man in the middle; for tests of the guest."""

import json
import os

import aiohttp
from aiohttp import web

from kbs_rim.evidence import base64url
from kbs_rim.evidence.envelope import EVIDENCE_JSON_TYPE, Evidence, parse_evidence
from kbs_rim.evidence.tcg_log import LogKind
from kbs_rim.realm.guest import KeyType, new_key
from kbs_rim.sealing.guest_key import commitment, guest_key_of, parse_guest_key
from kbs_rim.sealing.jwe import open_jwe, seal

SECRET = b"correct horse battery staple"
TAG = b"\xd9\x03\x8b"
"""The envelope looks at the first byte of a token."""


class EchoingSource:
    """Evidence that echoes the challenge, as a realm token does."""

    def __init__(self):
        self.challenges = []

    def evidence(self, challenge):
        self.challenges.append(challenge)
        return Evidence(TAG + challenge, ((LogKind.VMM, b"log"),))


class SmallBroker:
    """Releases one secret to whoever sends something that holds the challenge."""

    def __init__(self):
        self.pending = {}
        self.bodies = []
        self.busy = []  # (leg, headers) to answer 503 with, in order
        self.location = "/keys/v1/evidence/{}"
        self.app = web.Application()
        self.app.add_routes([web.post("/keys/v1/key/{name:.+}", self.request_key), web.post("/keys/v1/evidence/{id}", self.submit)])

    def _busy(self, leg):
        if self.busy and self.busy[0][0] == leg:
            return web.json_response({"code": "busy"}, status=503, headers=self.busy.pop(0)[1])
        return None

    async def request_key(self, request):
        if busy := self._busy("key"):
            return busy
        key = parse_guest_key((await request.json())["pubkey"])
        salt, number = os.urandom(32), os.urandom(8).hex()
        challenge = commitment(salt, key.thumbprint)
        self.pending[number] = (key, challenge)
        answer = {"challenge": base64url.encode(challenge), "salt": base64url.encode(salt), "accept": [EVIDENCE_JSON_TYPE]}
        return web.json_response(answer, status=201, headers={"Location": self.location.format(number)})

    async def submit(self, request):
        if busy := self._busy("evidence"):
            return busy
        key, challenge = self.pending.pop(request.match_info["id"])
        self.bodies.append(await request.read())
        evidence = parse_evidence(request.headers["Content-Type"], await request.read())
        if challenge not in evidence.token:
            return web.json_response({"code": "realm-token-refused", "ticket": "t-1"}, status=403)
        return web.json_response({"data": seal(key, SECRET).value, "ticket": "t-2"})


class HostileProxy:
    """Asks the broker with its own key, hands that challenge to the guest, and opens what comes back."""

    def __init__(self, broker_url):
        self.broker_url = broker_url
        self.own = new_key(KeyType.P256)
        self.stolen = []
        self.app = web.Application()
        self.app.add_routes([web.post("/keys/v1/key/{name}", self.swap), web.post("/keys/v1/evidence/{id}", self.relay)])

    async def _forward(self, request, body):
        headers = {"Content-Type": request.content_type}
        async with aiohttp.ClientSession() as session, session.post(self.broker_url + request.path, data=body, headers=headers) as answer:
            return answer.status, await answer.read(), answer.headers.get("Location", "")

    async def swap(self, request):
        status, body, location = await self._forward(request, json.dumps({"pubkey": guest_key_of(self.own.public_key()).to_jwk()}))
        return web.Response(status=status, body=body, headers={"Location": location})

    async def relay(self, request):
        status, body, _ = await self._forward(request, await request.read())
        self.stolen.append(open_jwe(self.own, json.loads(body)["data"]))
        return web.Response(status=status, body=body)
