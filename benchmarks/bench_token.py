"""How long one CCA token takes: reading it, reading and verifying it, and the bare signature check beside it.

Run: ``python benchmarks/bench_token.py [FILE]``. Prints medians of one process; compare the ratio, not the milliseconds.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from kbs_rim.appraisal.token_rules import judge_realm_token
from kbs_rim.evidence.cca_token import parse_cca_token
from kbs_rim.evidence.cose import signed_bytes

DEFAULT = Path(__file__).parent.parent / "tests" / "vectors" / "tokens" / "valid" / "v07-2024realm-907-mec-int.cbor"
ROUNDS, PER_ROUND = 40, 25


def medians(works: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Milliseconds per call. The works take turns, so that a busy moment of the machine hits all of them."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(ROUNDS):
        for name, work in works.items():
            start = time.perf_counter()
            for _ in range(PER_ROUND):
                work()
            times[name].append((time.perf_counter() - start) * 1000 / PER_ROUND)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Measure and print."""
    data = (Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT).read_bytes()
    token = parse_cca_token(data)
    challenge = token.realm.claims.challenge
    signature = token.realm.sign1.signature
    der = encode_dss_signature(int.from_bytes(signature[:48], "big"), int.from_bytes(signature[48:], "big"))
    message, key, hash_ = signed_bytes(token.realm.sign1), token.realm.rak, ECDSA(SHA384())

    def whole() -> None:
        findings = judge_realm_token(parse_cca_token(data), challenge=challenge, allow_test_keys=True, allow_legacy_profile=True)
        if findings:
            raise SystemExit(f"the token is not good: {findings[0].id}")

    results = medians(
        {
            "read the token": lambda: parse_cca_token(data),
            "read it and judge the realm token": whole,
            "bare ES384 verification": lambda: key.verify(der, message, hash_),
        }
    )
    bare = results["bare ES384 verification"]
    print(f"token of {len(data)} bytes, medians of {ROUNDS} rounds of {PER_ROUND}")
    for name, value in results.items():
        print(f"{name:<36} {value:7.3f} ms  {value / bare:5.2f} x bare")


if __name__ == "__main__":
    main()
