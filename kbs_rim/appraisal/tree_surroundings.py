"""What a device tree says of the rest of the VM, against what the log says was done: RAM, initrd, event log.

The kernel finds all three through the tree, so a range that is not the measured one is memory that the host fills.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kbs_rim.appraisal.address_range import Range, joined
from kbs_rim.appraisal.findings import Finding, Severity
from kbs_rim.measurement.device_tree import DeviceTreeFacts

Where = Mapping[str, str | int]
Known = tuple[Range, ...] | None
"""Ranges that are known to be there; empty if there is none, None if nobody knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """The VM around a tree, as far as it is known."""

    memory: Known = None
    initrd: Known = None
    log_area: Known = None


def judge_surroundings(facts: DeviceTreeFacts, around: Surroundings, where: Where) -> Iterator[Finding]:
    """Yield what the tree says and the VM does not have, for everything that is known."""
    if around.memory is not None:
        yield from judge_memory(facts, around.memory, where)
    if around.initrd is not None:
        yield from judge_initrd(facts, around.initrd, where)
    if around.log_area is not None:
        yield from judge_log_area(facts, around.log_area, where)


def judge_memory(facts: DeviceTreeFacts, ram: tuple[Range, ...], where: Where) -> Iterator[Finding]:
    """RAM that the realm does not have is memory that the host reads and writes."""
    memory = joined(facts.memory)
    if memory != ram:
        place = {**where, "node": "/memory", "property": "reg"}
        message = "the device tree's memory is not the realm's RAM"
        yield Finding("tree.memory", message, expected=_text(ram, "no RAM"), seen=_text(memory, "no memory node"), where=place)


def judge_initrd(facts: DeviceTreeFacts, loaded: tuple[Range, ...], where: Where, severity: Severity = Severity.ERROR) -> Iterator[Finding]:
    """The kernel unpacks whatever lies in the range that the tree names."""
    named = () if facts.initrd is None else (Range(*facts.initrd),)
    if named != loaded:
        place = {**where, "node": "/chosen", "property": "linux,initrd-start"}
        message = "the device tree's initrd is not the initrd that was loaded"
        yield Finding("tree.initrd", message, severity, expected=_text(loaded, "no initrd"), seen=_text(named, "no initrd"), where=place)


def judge_log_area(facts: DeviceTreeFacts, logged: tuple[Range, ...], where: Where) -> Iterator[Finding]:
    """What the tree calls the event log is neither used as RAM nor measured; a second such place would be the host's."""
    named = () if facts.log_area is None else (Range.sized(*facts.log_area),)
    if named != logged:
        place = {**where, "node": "/reserved-memory", "property": "reg"}
        message = "the device tree's event log is not the log area that the log names"
        yield Finding("tree.log-area", message, expected=_text(logged, "no log area"), seen=_text(named, "no log area"), where=place)


def _text(ranges: tuple[Range, ...], none: str) -> str:
    shown = ", ".join(map(str, ranges[:4])) or none
    return shown if len(ranges) <= 4 else f"{shown} and {len(ranges) - 4} more"
