"""One input, one target: what must hold whatever the input is.

A parser of hostile bytes returns, or raises the exception that its docstring names; it takes a bounded time; it says the same
twice; and what it says about a refusal can be shown to anybody: text without control characters, an id of the catalogue. What
must hold besides (an encoder undoes a decoder, two readings agree) is the target's own ``check``.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from kbs_rim.appraisal.finding_catalogue import CATALOGUE
from kbs_rim.errors import KbsRimError, MalformedEvidence, TheirFault

_MESSAGE_CHARACTERS = 8192
"""Longest text of a refusal. A workload with many wrong keys is told all of them; nothing else comes near."""


class BrokenInvariant(AssertionError):
    """A parser broke a promise; the input shows how."""


class TooSlow(BrokenInvariant):
    """An input took more CPU time than its size allows."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What a check may return where nothing is ever refused by exception: a ``label`` to tell outcomes apart."""

    label: str
    detail: object


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One parser. ``check`` reads an input and returns what it saw, which must be comparable or have a stable ``repr``.

    ``refusals`` are the exceptions that may leave it. ``seeds`` gives inputs to start from. The CPU bound of an input is
    ``cpu_ms`` and ``cpu_ms_per_kib`` for each KiB, invariants included: five times or more what honest inputs take.
    """

    name: str
    check: Callable[[bytes], object]
    seeds: Callable[[], Iterable[bytes]]
    refusals: tuple[type[KbsRimError], ...] = (MalformedEvidence,)
    words: tuple[bytes, ...] = ()
    max_bytes: int = 4096
    cpu_ms: float = 50
    cpu_ms_per_kib: float = 10


@dataclass(frozen=True, slots=True)
class Examined:
    """``label`` is ``accepted``, or what the target calls its outcome, or the id of the refusal."""

    accepted: bool
    label: str
    outcome: tuple[object, ...]
    cpu_ms: float


def require(condition: bool, promise: str) -> None:
    """Raise ``BrokenInvariant`` if a promise was broken."""
    if not condition:
        raise BrokenInvariant(f"broken: {promise}")


def examine(target: Target, data: bytes, *, slowness: float = 1.0, twice: bool = True) -> Examined:
    """Run one input and judge it. ``slowness`` stretches the CPU bound, for instrumented code.

    Raises ``BrokenInvariant``, and whatever else left the parser although it may not.
    """
    examined = _run(target, data)
    allowed_ms = slowness * (target.cpu_ms + target.cpu_ms_per_kib * len(data) / 1024)
    if examined.cpu_ms > allowed_ms:
        # The first run may have paid for imports, caches or the garbage of others.
        cpu_ms = min(_run(target, data).cpu_ms for _ in range(3))
        if cpu_ms > allowed_ms:
            raise TooSlow(f"{len(data)} bytes took {cpu_ms:.0f} ms of CPU time, at most {allowed_ms:.0f} ms are allowed")
        examined = replace(examined, cpu_ms=cpu_ms)
    if twice:
        again = _run(target, data)
        same = again.outcome == examined.outcome or repr(again.outcome) == repr(examined.outcome)
        require(same, f"the same input gives the same outcome twice: {examined.label}, then {again.label}")
    return examined


def _run(target: Target, data: bytes) -> Examined:
    start = time.process_time()
    try:
        seen = target.check(data)
    except target.refusals as error:
        cpu_ms = 1000 * (time.process_time() - start)
        label, outcome = _refusal(error)
        return Examined(False, label, outcome, cpu_ms)
    label = seen.label if isinstance(seen, Judged) else "accepted"
    return Examined(True, label, (label, seen), 1000 * (time.process_time() - start))


def _refusal(error: KbsRimError) -> tuple[str, tuple[object, ...]]:
    """What a refusal says; it must be fit to be shown, stored and searched for."""
    kind = type(error).__name__
    label = getattr(error, "finding_id", None) or getattr(error, "code", None) or kind
    if isinstance(error, TheirFault):
        require(label in CATALOGUE, f"{kind} has a finding id of the catalogue, not {label!r}")
    texts = (str(error), getattr(error, "expected", None), getattr(error, "seen", None))
    for text in texts:
        require_presentable(text)
    return str(label), (kind, label, *texts)


def require_presentable(text: str | None) -> None:
    """No control character, no half of a surrogate pair, no novel: the text may go to a terminal, a page or a database."""
    if text is not None:
        require(text.isprintable(), f"a message is printable: {text[:200]!a}")
        require(len(text) <= _MESSAGE_CHARACTERS, f"a message is short: {len(text)} characters, {text[:200]!a}")
