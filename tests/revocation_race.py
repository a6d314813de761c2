"""Brokers in processes of their own release without a pause, while another process revokes. What must hold:

No release is committed after a revocation is acknowledged, by whichever process; what is asked for later is refused with the reason;
guests of other workloads notice nothing; and every process has dropped the RIMs of the revoked image, no others, though none was told.

Order is that of the database and of this machine's monotonic clock, which its processes share; nothing is judged by how long it took.
``tests/attacks/test_attacks_revocation.py`` runs a few rounds, ``benchmarks/bench_revocation.py`` as many as one likes.
"""

import asyncio
import json
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

from sqlalchemy import text
from stage import INITRD, QEMU_KERNEL, ROLES, Stage, Vm, endorsements_of, kernel_file

from kbs_rim.adapters.db import Store, open_store
from kbs_rim.adapters.secrets.local_kek import LocalKeyEncryptionKey
from kbs_rim.appraisal.ear_policy import EarPolicy
from kbs_rim.appraisal.ear_signature import EarKey
from kbs_rim.appraisal.workload import parse_workload
from kbs_rim.evidence.envelope import EVIDENCE_JSON_TYPE, encode_evidence_json
from kbs_rim.limits import DEFAULT_LIMITS
from kbs_rim.measurement.image import measure_image
from kbs_rim.observability import configure_logging
from kbs_rim.ports import VerifierAnswer
from kbs_rim.realm.guest import KeyType, new_key
from kbs_rim.realm.simulator import SimulatedRealm
from kbs_rim.reference_verifier.app import ear_claims
from kbs_rim.reference_verifier.trust_vectors import appraise_token
from kbs_rim.sealing.guest_key import guest_key_of
from kbs_rim.services.broker import Broker, BrokerPolicy, BrokerStores
from kbs_rim.services.exchange import RefusedError
from kbs_rim.services.registry import Registry
from kbs_rim.services.secrets import ReleaseVault, SecretVault
from kbs_rim.wiring import SystemClock

STAYS = "stays"
KEK = bytes(range(32))
FINDINGS = {
    "image": {"rim.image-revoked"},
    "workload": {"policy.workload-inactive"},
    "version": {"policy.secret-revoked"},
    "binding": {"policy.no-workload"},
}
"""What can be revoked, and the reason that is on record for whoever asks afterwards."""
_LONGER_THAN_ANY_MACHINE_S = 120
_IMPORTS = [str(folder) for folder in Path(__file__).resolve().parents[:2]]


def vm_of(name: str) -> Vm:
    """A VM with a kernel of its own; initrd and device tree are those of all the others."""
    return replace(QEMU_KERNEL, files=replace(QEMU_KERNEL.files, kernel=kernel_file(name.encode()), initrd=INITRD))


def kernel_id(name: str) -> str:
    return measure_image(kernel_file(name.encode())).image_id


def path_of(name: str) -> str:
    return f"race/disk/{name}"


# --- a broker in a process of its own -----------------------------------------------------------------------------------


class Verifier:
    """Judges like the reference verifier."""

    def __init__(self, stage: Stage) -> None:
        self._stage, self._endorsements = stage, endorsements_of(stage.identity)

    async def appraise(self, token: bytes, challenge: bytes) -> VerifierAnswer:
        at = int(time.time())
        submods = appraise_token(token, challenge, self._endorsements, at=at, allow_test_keys=False, limits=DEFAULT_LIMITS)
        result = self._stage.signing_key.sign(ear_claims(submods, challenge, at=at))
        return VerifierAnswer(attestation_result=result, discovery_keys=(), verifier="here", duration_us=1)


class Worker:
    """One broker with two guests that never stop: one of the workload of this round, and one of a workload that stays."""

    def __init__(self, url: str) -> None:
        self._stage, self.store = Stage(), open_store(url)
        self.broker = Broker(
            stores=BrokerStores(
                trust=self.store.trust, images=self.store.images, challenges=self.store.challenges, records=self.store.records
            ),
            vault=ReleaseVault(self.store.opener, LocalKeyEncryptionKey([KEK])),
            verifier=Verifier(self._stage),
            policy=BrokerPolicy(
                ear_policy=EarPolicy(keys=(EarKey.from_jwk(self._stage.signing_key.public_jwk()),)),
                limits=DEFAULT_LIMITS,
                challenge_lifetime=timedelta(seconds=60),
            ),
            clock=SystemClock(),
            entropy=os.urandom,
        )
        self._key = guest_key_of(new_key(KeyType.P256).public_key()).to_jwk()
        self.target: str | None = None
        self._running = True

    async def guest(self, choose: Callable[[], str | None]) -> None:
        """Ask again and again for the secret of the VM that is to be booted now; say what came of it."""
        realm, booted = None, None
        while self._running:
            name = choose()
            if name is None:
                await asyncio.sleep(0.005)
                continue
            if name != booted:
                realm, booted = SimulatedRealm(replace(self._stage.simulation(), script=vm_of(name).script)), name
            say(vm=name, **await self._exchange(name, present_realm(realm)))

    async def _exchange(self, name: str, realm: SimulatedRealm) -> dict:
        challenge = await self.broker.issue_challenge(name, self._key)
        body = encode_evidence_json(realm.evidence(challenge.value))
        started = time.monotonic_ns()
        try:
            released = await self.broker.release(challenge.id, EVIDENCE_JSON_TYPE, body)
        except RefusedError as error:
            return {"started": started, "outcome": "refused", "findings": error.finding_ids, "ticket": error.ticket}
        return {"started": started, "outcome": "released", "findings": (), "ticket": released.ticket}

    async def orders(self) -> None:
        """Follow what is said on standard input: the name of a VM, or nothing any more."""
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            self.target = line.decode().strip()
        self._running = False

    async def run(self) -> None:
        await asyncio.gather(self.orders(), self.guest(lambda: self.target), self.guest(lambda: STAYS))
        rims = self.broker.trust.rims
        held = sorted({image for _, images in rims._rims.values() for image in images})
        say(held=held, dropped=rims.counts.dropped, misses=rims.counts.misses, hits=rims.counts.hits)
        await self.store.close()


def present_realm(realm: SimulatedRealm | None) -> SimulatedRealm:
    if realm is None:
        raise RuntimeError("no realm was booted")
    return realm


def say(**event: object) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


# --- the process that revokes -------------------------------------------------------------------------------------------


@dataclass
class Process:
    """A worker seen from outside."""

    process: asyncio.subprocess.Process
    events: list[dict] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    summary: dict = field(default_factory=dict)

    async def listen(self) -> None:
        while line := await self.process.stdout.readline():
            event = json.loads(line)
            if "vm" in event:
                self.events.append(event)
            else:
                self.summary = event
            self.news.set()

    def of(self, vm: str, *, after: int = 0) -> list[dict]:
        return [event for event in self.events if event["vm"] == vm and event["started"] > after]

    async def until(self, condition: Callable[["Process"], bool]) -> None:
        async with asyncio.timeout(_LONGER_THAN_ANY_MACHINE_S):
            while not condition(self):
                if self.process.returncode is not None:
                    raise RuntimeError(f"a worker ended with {self.process.returncode}")
                self.news.clear()
                await self.news.wait()


@dataclass
class Round:
    """One revocation: what was revoked, when that was acknowledged, and the releases that there were by then."""

    name: str
    kind: str
    acknowledged: int = 0
    waited_ns: int = 0
    tickets: set[str] = field(default_factory=set)


class Race:
    """Workers on one database, and the administrator."""

    def __init__(self, url: str, workers: int, rounds: int, seed: int = 1) -> None:
        self.url, self.count, self.random = url, workers, random.Random(seed)
        kinds = list(FINDINGS)
        self.rounds = [Round(f"vm{number}", kinds[number % len(kinds)]) for number in range(rounds)]
        self.workers: list[Process] = []
        self.store: Store = open_store(url)
        clock, kek = SystemClock(), LocalKeyEncryptionKey([KEK])
        self.registry = Registry(
            images=self.store.images,
            workloads=self.store.workloads,
            secrets=self.store.secrets,
            records=self.store.record_reader,
            clock=clock,
            limits=DEFAULT_LIMITS,
        )
        self.vault = SecretVault(store=self.store.secrets, kek=kek, clock=clock, entropy=os.urandom, limits=DEFAULT_LIMITS)

    async def run(self) -> None:
        """Everything, from an empty database; what came of it is in ``rounds`` and ``workers``."""
        for name in (STAYS, *(item.name for item in self.rounds)):
            await self._furnish(name)
        async with self._started():
            for item in self.rounds:
                await self._revoke_under_way(item)
        self.final = {item.name: await self._tickets(item.name) for item in self.rounds}
        await self.store.close()

    async def _furnish(self, name: str) -> None:
        vm = vm_of(name)
        for load in vm.script.loads:
            document = measure_image(bytes(load.data)).to_document()
            role = ROLES[load.name].value
            await self.registry.register_image(name=role, roles=[role], measurements=document, provenance={}, actor="ada")
        await self.registry.register_workload(parse_workload(vm.workload_document(name)), actor="ada")
        await self.vault.create(path_of(name), key_id=name, workloads=[name], value=b"a secret", actor="ada")

    @asynccontextmanager
    async def _started(self) -> AsyncIterator[None]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*_IMPORTS, *sys.path])}
        listening = []
        for _ in range(self.count):
            process = await asyncio.create_subprocess_exec(
                sys.executable, __file__, self.url, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=environment
            )
            self.workers.append(Process(process))
            listening.append(asyncio.create_task(self.workers[-1].listen()))
        try:
            yield
        finally:
            for worker in self.workers:
                worker.process.stdin.close()
            async with asyncio.timeout(_LONGER_THAN_ANY_MACHINE_S):
                await asyncio.gather(*listening, *(worker.process.wait() for worker in self.workers))

    async def _revoke_under_way(self, item: Round) -> None:
        """Revoke while every worker releases, and let them go on until each has seen it."""
        for worker in self.workers:
            worker.process.stdin.write(f"{item.name}\n".encode())
        await self._all(lambda worker: len(worker.of(item.name)) > 1)
        await asyncio.sleep(self.random.random() / 10)
        asked = time.monotonic_ns()
        await self._revoke(item)
        item.acknowledged = time.monotonic_ns()
        item.waited_ns = item.acknowledged - asked
        item.tickets = await self._tickets(item.name)
        for name in (item.name, STAYS):
            await self._all(lambda worker, name=name: len(worker.of(name, after=item.acknowledged)) > 1)

    async def _all(self, condition: Callable[[Process], bool]) -> None:
        await asyncio.gather(*(worker.until(condition) for worker in self.workers))

    async def _revoke(self, item: Round) -> None:
        match item.kind:
            case "image":
                await self.registry.set_image_state(kernel_id(item.name), "revoked", reason="a race", actor="ada")
            case "workload":
                await self.registry.retire_workload(item.name, actor="ada")
            case "version":
                await self.vault.revoke_version(path_of(item.name), 1, actor="ada")
            case "binding":
                await self.vault.bind(path_of(item.name), [], actor="ada")

    async def _tickets(self, name: str) -> set[str]:
        """Tickets of every release of the secret that is committed."""
        query = text("SELECT appraisal_id FROM releases WHERE secret = :path")
        async with self.store.database.reading() as steps:
            return set(await steps.scalars(query, {"path": path_of(name)}))

    # --- what must hold -------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise ``AssertionError`` with what does not hold."""
        for item in self.rounds:
            self._check_round(item)
        for worker in self.workers:
            assert worker.process.returncode == 0
            others = worker.of(STAYS)
            assert {event["outcome"] for event in others} == {"released"}, "guests of other workloads notice nothing"
            self._check_caches(worker)

    def _check_round(self, item: Round) -> None:
        answers = [event for worker in self.workers for event in worker.of(item.name)]
        released = {event["ticket"] for event in answers if event["outcome"] == "released"}
        late = self.final[item.name] - item.tickets
        assert not late, f"{item.kind}: {len(late)} releases were committed after the revocation was acknowledged"
        assert released <= item.tickets, f"{item.kind}: a guest got a secret for which no release is on record"
        assert released, "the race was none"
        later = [event for event in answers if event["started"] > item.acknowledged]
        assert {event["outcome"] for event in later} == {"refused"}
        for event in later:
            assert FINDINGS[item.kind] & set(event["findings"]), event

    def _check_caches(self, worker: Process) -> None:
        revoked = {kernel_id(item.name) for item in self.rounds if item.kind == "image"}
        trusted = {kernel_id(item.name) for item in self.rounds if item.kind != "image"} | {kernel_id(STAYS)}
        held = set(worker.summary["held"])
        assert not held & revoked, "a RIM of a revoked image was kept"
        assert trusted <= held, "a RIM of an image that is still trusted was dropped"
        assert worker.summary["dropped"] >= len(revoked)


def main() -> None:
    """Be a worker on the database that the first argument names."""
    configure_logging("critical", "console")
    asyncio.run(Worker(sys.argv[1]).run())


if __name__ == "__main__":
    main()
