"""What differs between the logs of two boots: events that came, went, or have another digest, register by register.

Events are one and the same if type and digests are: event data are not measured, and addresses in them change from boot to
boot. A VMM's log is the exception: its records are the operations that the RIM measures. Work is bounded by
``limits.log_changes``: registers that differ in more are reported as different from there on.
"""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence import tcg_names as names
from kbs_rim.evidence.event_log import Content, EventLog, ImaTemplate, MeasuredEvent, RegisterKind, TcgContent
from kbs_rim.evidence.ima_template import decode_entry
from kbs_rim.evidence.tcg_structures import parse_image_load, parse_tagged_event, parse_variable
from kbs_rim.limits import DEFAULT_LIMITS, Limits


class Change(StrEnum):
    """What happened to an event from one boot to the next."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True)
class EventChange:
    """One difference. ``before`` is None for what was added, ``after`` for what was removed."""

    change: Change
    register: int
    before: MeasuredEvent | None
    after: MeasuredEvent | None


_Pair = tuple[MeasuredEvent | None, MeasuredEvent | None]


def diff_logs(before: EventLog, after: EventLog, limits: Limits = DEFAULT_LIMITS) -> tuple[EventChange, ...]:
    """Compare two logs register by register, in the algorithms that both have. Order within a register counts, order between
    registers does not.

    Raises ``ValueError`` for logs that count different registers or have no algorithm in common.
    """
    if before.registers is not after.registers:
        raise ValueError(f"one log counts {before.registers} registers, the other {after.registers}")
    common = [identifier for identifier in before.algorithms if identifier in after.algorithms]
    if not common and before.algorithms and after.algorithms:
        raise ValueError("the logs have no hash algorithm in common")
    changes: list[EventChange] = []
    for register in sorted({event.register for event in (*before.events, *after.events)}):
        old, new = ([event for event in log.events if event.register == register] for log in (before, after))
        keys = [[_identity(event, common) for event in events] for events in (old, new)]
        for gap in _gaps(old, new, _matches(keys[0], keys[1], limits.log_changes)):
            changes.extend(_changes(register, *gap))
    return tuple(changes)


def _identity(event: MeasuredEvent, algorithms: Sequence[int]) -> object:
    """What makes two events one: type and digests, or type and content where nothing is hashed.

    In a VMM's log both count: the RMM measures the operations that the records tell of (addresses, registers, parameters), and
    most records have no digest at all.
    """
    if not event.measured:
        return event.type_name, event.content
    digests = tuple(event.digests.get(identifier) for identifier in algorithms)
    return (event.type_name, event.content, digests) if event.register_kind is RegisterKind.RIM else (event.type_name, digests)


def _gaps(
    old: list[MeasuredEvent], new: list[MeasuredEvent], matches: list[tuple[int, int]]
) -> Iterator[tuple[list[MeasuredEvent], list[MeasuredEvent]]]:
    """Yield what stands between matching events on both sides, where something does."""
    at_old = at_new = 0
    for in_old, in_new in (*matches, (len(old), len(new))):
        if in_old > at_old or in_new > at_new:
            yield old[at_old:in_old], new[at_new:in_new]
        at_old, at_new = in_old + 1, in_new + 1


def _changes(register: int, removed: list[MeasuredEvent], added: list[MeasuredEvent]) -> Iterator[EventChange]:
    """Pair events about one thing, in order; the rest came or went."""
    waiting: dict[object, list[MeasuredEvent]] = {}
    for event in reversed(added):
        waiting.setdefault(subject_of(event), []).append(event)
    paired: set[int] = set()
    for event in removed:
        others = waiting.get(subject_of(event))
        if others:
            other = others.pop()
            paired.add(other.number)
            yield EventChange(Change.CHANGED, register, event, other)
        else:
            yield EventChange(Change.REMOVED, register, event, None)
    for event in added:
        if event.number not in paired:
            yield EventChange(Change.ADDED, register, None, event)


def subject_of(event: MeasuredEvent) -> tuple[str, object]:
    """Return what an event is about by its own words: type, and variable, file, section or tag if it names one. Never raises."""
    try:
        return event.type_name, _subject(event.content)
    except MalformedEvidence:
        return event.type_name, None


def _subject(content: Content) -> object:
    if isinstance(content, ImaTemplate):
        return decode_entry(content).path if content.data else None
    if not isinstance(content, TcgContent):
        return None
    if content.type in _VARIABLES:
        variable = parse_variable(content.data)
        return variable.guid, variable.name
    if content.type in _IMAGES:
        return parse_image_load(content.data, DEFAULT_LIMITS.device_path_nodes).path[-1:]
    if content.type == names.EV_EVENT_TAG:
        return parse_tagged_event(content.data).tag
    if content.type == names.EV_IPL:
        head = content.data.partition(b"\0")[0]
        prefix, colon, _ = head.partition(b": ")
        return prefix if colon else content.data
    return None


def _matches(old: list[object], new: list[object], most: int) -> list[tuple[int, int]]:
    """Return the positions of a longest common subsequence, or of common ends only if more than ``most`` changes are needed."""
    start = 0
    while start < min(len(old), len(new)) and old[start] == new[start]:
        start += 1
    end = 0
    while end < min(len(old), len(new)) - start and old[len(old) - 1 - end] == new[len(new) - 1 - end]:
        end += 1
    middle = _greedy(old[start : len(old) - end], new[start : len(new) - end], most)
    head = [(position, position) for position in range(start)]
    tail = [(len(old) - back, len(new) - back) for back in range(end, 0, -1)]
    return [*head, *((a + start, b + start) for a, b in middle), *tail]


def _greedy(old: list[object], new: list[object], most: int) -> list[tuple[int, int]]:
    """E. Myers' greedy algorithm (1986): the furthest reach on each diagonal for 0, 1, 2 ... changes. Gives up after ``most``."""
    bound = min(len(old) + len(new), most)
    reach = array("l", [0] * (2 * bound + 3))
    history: list[array[int]] = []
    for changes in range(bound + 1):
        history.append(reach[bound + 1 - changes : bound + 2 + changes])
        for diagonal in range(-changes, changes + 1, 2):
            at = bound + 1 + diagonal
            down = diagonal == -changes or (diagonal != changes and reach[at - 1] < reach[at + 1])
            x = reach[at + 1] if down else reach[at - 1] + 1
            while x < len(old) and x - diagonal < len(new) and old[x] == new[x - diagonal]:
                x += 1
            reach[at] = x
            if x >= len(old) and x - diagonal >= len(new):
                return _trace(len(old), len(new), history)
    return []


def _trace(x: int, y: int, history: list["array[int]"]) -> list[tuple[int, int]]:
    """Walk back from the end. ``history[d]`` holds the reach on diagonals -d to d before round d."""
    found: list[tuple[int, int]] = []
    for changes in range(len(history) - 1, -1, -1):
        reach, diagonal = history[changes], x - y
        down = diagonal == -changes or (diagonal != changes and reach[diagonal - 1 + changes] < reach[diagonal + 1 + changes])
        previous = diagonal + 1 if down else diagonal - 1
        from_x = reach[previous + changes] if changes else 0
        from_y = from_x - previous if changes else 0
        while x > from_x and y > from_y and x > 0 and y > 0:
            x, y = x - 1, y - 1
            found.append((x, y))
        x, y = from_x, from_y
    return found[::-1]


_VARIABLES = frozenset({
    names.EV_EFI_VARIABLE_DRIVER_CONFIG,
    names.EV_EFI_VARIABLE_BOOT,
    names.EV_EFI_VARIABLE_BOOT2,
    names.EV_EFI_VARIABLE_AUTHORITY,
})  # fmt: skip
_IMAGES = frozenset({
    names.EV_EFI_BOOT_SERVICES_APPLICATION,
    names.EV_EFI_BOOT_SERVICES_DRIVER,
    names.EV_EFI_RUNTIME_SERVICES_DRIVER,
})  # fmt: skip
