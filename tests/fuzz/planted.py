"""Targets with planted bugs: the harness must find each of them, and nothing in the honest one."""

import os
import signal
from itertools import count

from kbs_rim.errors import MalformedEvidence
from tests.fuzz.examination import Target, require, require_presentable

_COUNTER = count()


def _honest(data: bytes) -> object:
    if data[:1] == b"n":
        raise MalformedEvidence("cbor.malformed", "no")
    return data


def _leaks(data: bytes) -> object:
    return {b"a": 1}[data[:1]] if data else 0


def _breaks_off(data: bytes) -> object:
    require(b"\xff" not in data, "a planted promise")
    return data


def _slow(data: bytes) -> object:
    return sum(number * number for number in range(400_000 if len(data) > 20 else 1))


def _forgetful(_: bytes) -> object:
    return next(_COUNTER)


def _unknown_id(_: bytes) -> object:
    raise MalformedEvidence("no.such-id", "no")


def _wordy(_: bytes) -> object:
    require_presentable("no" * 10_000)
    return None


def _endless(data: bytes) -> object:
    while len(data) > 20:
        pass
    return data


def _dies(data: bytes) -> object:
    if len(data) > 20:
        os.kill(os.getpid(), signal.SIGSEGV)
    return data


def _exits(data: bytes) -> object:
    if len(data) > 20:
        raise SystemExit(0)
    return data


def _deep(data: bytes) -> object:
    """Four bytes that chance does not find, and coverage does."""
    if data[:1] == b"K":
        if data[1:2] == b"B":
            if data[2:3] == b"S":
                if data[3:4] == b"!":
                    raise KeyError("found")
                return 3
            return 2
        return 1
    return 0


def _target(name: str, check: object) -> Target:
    return Target(name=name, check=check, seeds=lambda: (b"seed", b"another one"), max_bytes=64, cpu_ms=20)  # type: ignore[arg-type]


_CHECKS = (_honest, _leaks, _breaks_off, _slow, _forgetful, _unknown_id, _wordy, _endless, _dies, _exits, _deep)
TARGETS = {check.__name__.strip("_"): _target(check.__name__.strip("_"), check) for check in _CHECKS}
