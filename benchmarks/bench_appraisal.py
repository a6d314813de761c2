"""Whole exchanges with one worker and a verifier that answers at once: median time by stage, and releases per second.

Everything is real but the wait for the verifier: tokens, logs and attestation results are made beforehand by the simulator and
the reference verifier's code; what is measured is the broker with SQLite (WAL, synchronous FULL) on this disk, or with the empty
PostgreSQL database that ``--database`` names. The floor is the cryptography that no broker can do without, measured in the same run:
two signatures checked, one key agreed on, one secret sealed. Processor time is that of the broker: what a guest and a verifier compute
was computed before. Prints only.
"""

import argparse
import asyncio
import hashlib
import os
import statistics
import struct
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from kbs_rim.adapters.db import open_store
from kbs_rim.adapters.db.migrate import upgrade
from kbs_rim.adapters.secrets.local_kek import LocalKeyEncryptionKey
from kbs_rim.appraisal.ear_policy import EarPolicy
from kbs_rim.appraisal.ear_signature import EarKey
from kbs_rim.appraisal.endorsement_files import parse_endorsements
from kbs_rim.appraisal.endorsements import EndorsementStore
from kbs_rim.appraisal.workload import Role, parse_workload
from kbs_rim.evidence.envelope import EVIDENCE_JSON_TYPE, encode_evidence_json
from kbs_rim.limits import DEFAULT_LIMITS, MIB
from kbs_rim.measurement.image import measure_image
from kbs_rim.observability import configure_logging
from kbs_rim.ports import Challenge, VerifierAnswer
from kbs_rim.realm.platform_identity import PlatformIdentity
from kbs_rim.realm.simulator import SimulatedRealm, Simulation
from kbs_rim.realm.vm_builder import LOG_STYLES, VmDefinition, VmFiles, build_script
from kbs_rim.reference_verifier.app import ear_claims
from kbs_rim.reference_verifier.signing import SigningKey
from kbs_rim.reference_verifier.trust_vectors import appraise_token
from kbs_rim.sealing.guest_key import guest_key_of
from kbs_rim.sealing.jwe import seal
from kbs_rim.services.broker import Broker, BrokerPolicy, BrokerStores
from kbs_rim.services.registry import Registry
from kbs_rim.services.secrets import ReleaseVault, SecretVault
from kbs_rim.wiring import SystemClock

ROLES = {"KERNEL": Role.KERNEL, "INITRD": Role.INITRD, "DTB": Role.DEVICE_TREE}
SIZES = {"small images (0.1 MiB)": (MIB // 20, MIB // 20), "Debian-sized images (70 MiB)": (32 * MIB, 38 * MIB)}
ROUNDS = 60


class PreparedVerifier:
    """Answers at once with results that were signed beforehand."""

    def __init__(self) -> None:
        self.results: dict[bytes, str] = {}

    async def appraise(self, token: bytes, challenge: bytes) -> VerifierAnswer:
        """Return the prepared result."""
        return VerifierAnswer(attestation_result=self.results[challenge], discovery_keys=(), verifier="prepared", duration_us=0)

    async def check(self) -> tuple[Mapping[str, Any], ...]:
        """Always ready, and silent about its keys."""
        return ()

    async def close(self) -> None:
        """Nothing to release."""


def kernel(size: int) -> bytes:
    """Return an arm64 Image of ``size`` bytes."""
    header = struct.pack("<IIQQQQQQII", 0x91005A4D, 0x14000000, 0, size, 0xA, 0, 0, 0, 0x644D5241, 64)
    return header + (hashlib.sha512(b"kernel").digest() * (size // 64 + 1))[: size - 64]


class Bench:
    """One broker with one registered VM."""

    def __init__(self, url: str, kernel_size: int, initrd_size: int) -> None:
        self.verifier, self.signing_key, self.identity = PreparedVerifier(), SigningKey.generate(), PlatformIdentity.generate()
        self.endorsements = EndorsementStore([parse_endorsements(self.identity.corim(), at=int(time.time()))])
        vm = VmDefinition(vmm="qemu", boot="kernel", cpus=2, memory=1024 * MIB, append="console=ttyAMA0")
        self.script = build_script(vm, VmFiles(kernel=kernel(kernel_size), initrd=b"i" * initrd_size))
        self.realm = SimulatedRealm(Simulation(script=self.script, log_style=LOG_STYLES["qemu"], identity=self.identity))
        self.url = url
        self.stages: dict[str, list[float]] = defaultdict(list)
        self.executor = ThreadPoolExecutor(2)

    async def open(self) -> None:
        """Create the database, register trust, build the broker."""
        await upgrade(self.url)
        self.store = store = open_store(self.url)
        clock, kek = SystemClock(), LocalKeyEncryptionKey([os.urandom(32)])
        registry = Registry(
            images=store.images,
            workloads=store.workloads,
            secrets=store.secrets,
            records=store.record_reader,
            clock=clock,
            limits=DEFAULT_LIMITS,
        )
        rules = []
        for load in self.script.loads:
            measured, role = measure_image(bytes(load.data)), ROLES[load.name].value
            await registry.register_image(name=role, roles=[role], measurements=measured.to_document(), provenance={}, actor="bench")
            rules.append({"role": role, "images": [measured.image_id]})
        base, size = self.script.ram
        workload = parse_workload({"name": "web", "images": rules, "memory": {"base": base, "size": {"min": size, "max": size}}})
        await registry.register_workload(workload, actor="bench")
        vault = SecretVault(store=store.secrets, kek=kek, clock=clock, entropy=os.urandom, limits=DEFAULT_LIMITS)
        await vault.create("a/b/c", key_id="c", workloads=["web"], value=b"s" * 32, actor="bench")
        self.broker = Broker(
            stores=BrokerStores(trust=store.trust, images=store.images, challenges=store.challenges, records=store.records),
            vault=ReleaseVault(store.opener, kek),
            verifier=self.verifier,
            policy=BrokerPolicy(
                ear_policy=EarPolicy(keys=(EarKey.from_jwk(self.signing_key.public_jwk()),)),
                limits=DEFAULT_LIMITS,
                challenge_lifetime=timedelta(minutes=10),
            ),
            clock=clock,
            entropy=os.urandom,
            executor=self.executor,
            observe=lambda stage, seconds: self.stages[stage].append(seconds),
        )

    async def prepare(self, count: int) -> list[tuple[Challenge, bytes]]:
        """Issue challenges and make the evidence and the verifier's answers for them."""
        jwk = guest_key_of(ec.generate_private_key(ec.SECP256R1()).public_key()).to_jwk()
        prepared = []
        for _ in range(count):
            challenge = await self.broker.issue_challenge("c", jwk)
            evidence = self.realm.evidence(challenge.value)
            at = int(datetime.now(UTC).timestamp())
            submods = appraise_token(
                evidence.token, challenge.value, self.endorsements, at=at, allow_test_keys=False, limits=DEFAULT_LIMITS
            )
            self.verifier.results[challenge.value] = self.signing_key.sign(ear_claims(submods, challenge.value, at=at))
            prepared.append((challenge, encode_evidence_json(evidence)))
        return prepared

    async def release(self, challenge: Challenge, body: bytes) -> float:
        """Time one release."""
        start = time.perf_counter()
        await self.broker.release(challenge.id, EVIDENCE_JSON_TYPE, body)
        return time.perf_counter() - start


def floor_ms() -> float:
    """Median processor time of the cryptography of one release."""
    realm, verifier = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP256R1())
    guest = guest_key_of(ec.generate_private_key(ec.SECP256R1()).public_key())
    algorithms = ec.ECDSA(hashes.SHA384()), ec.ECDSA(hashes.SHA256())
    message = bytes(1000)
    signatures = realm.sign(message, algorithms[0]), verifier.sign(message, algorithms[1])
    times = []
    for _ in range(50):
        start = time.thread_time()
        realm.public_key().verify(signatures[0], message, algorithms[0])
        verifier.public_key().verify(signatures[1], message, algorithms[1])
        seal(guest, b"s" * 32)
        times.append(time.thread_time() - start)
    return statistics.median(times) * 1000


async def measure(title: str, sizes: tuple[int, int], url: str | None) -> None:
    """Run one setting and print it."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(url or f"sqlite:///{folder}/bench.db", *sizes)
        await bench.open()
        for challenge, body in await bench.prepare(3):
            await bench.release(challenge, body)
        bench.stages.clear()
        times = [await bench.release(challenge, body) for challenge, body in await bench.prepare(ROUNDS)]
        stages = {name: statistics.median(values) * 1000 for name, values in bench.stages.items()}
        prepared = await bench.prepare(ROUNDS)
        start = time.perf_counter()
        pending = iter(prepared)

        async def client() -> None:
            for challenge, body in pending:
                await bench.release(challenge, body)

        cpu_start, loop_start = time.process_time(), time.thread_time()
        await asyncio.gather(*(client() for _ in range(8)))
        cpu, on_loop = (time.process_time() - cpu_start) / ROUNDS * 1000, (time.thread_time() - loop_start) / ROUNDS * 1000
        rate = ROUNDS / (time.perf_counter() - start)
        floor = floor_ms()
        await bench.store.close()
        bench.executor.shutdown()
    median = statistics.median(times) * 1000
    print(f"{title}: one release {median:.1f} ms median; {rate:.0f} releases/s with 8 guests at once, one worker")
    shares = f"{cpu / floor:.1f} times its cryptography ({floor:.2f} ms); {on_loop / cpu:.0%} of it on the event loop"
    print(f"    processor time {cpu:.2f} ms a release, {shares}")
    for name, value in sorted(stages.items(), key=lambda item: -item[1]):
        print(f"    {name:<10} {value:7.2f} ms  {value / median:5.0%}")
    print(f"    {'(rest)':<10} {median - sum(stages.values()):7.2f} ms  redemption, scheduling, release record")


async def main() -> None:
    """Measure every setting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", metavar="URL", help="an empty PostgreSQL database; only small images are measured then")
    url = parser.parse_args().database
    configure_logging("error", "console")
    for title, sizes in list(SIZES.items())[: 1 if url else None]:
        await measure(title, sizes, url)


if __name__ == "__main__":
    asyncio.run(main())
