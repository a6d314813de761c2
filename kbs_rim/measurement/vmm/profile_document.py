"""VMM profiles as documents (TOML): another version or an older flow, said as the difference from a profile that is known.

Read strictly: what a key means is in ``vmm_profile``, and a key that means nothing is an error that names it.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar, get_args

from kbs_rim.errors import InvalidDocument
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.measurement.vmm.profile import Boot, Region
from kbs_rim.measurement.vmm.shipped_profiles import SHIPPED
from kbs_rim.measurement.vmm.vmm_profile import BootFlow, OperationRule, PlacementRule, VmmProfile

_Made = TypeVar("_Made")
_U64 = 1 << 64
_NUMBERS = ("ram_base", "ram_step", "ram_low_end", "ram_middle", "tree_size", "log_size", "ipa_bits", "ipa_floor", "high_base")
_TEXTS = ("name", "version", "source")


def parse_profile(document: Mapping[str, Any]) -> VmmProfile:
    """Return the profile of a document: ``extends`` names a shipped one, every other key replaces a part of it.

    Keys: name, version, source, hash, the numbers of ``VmmProfile``, ``features`` (list), ``regions`` (NAME = [base, size], replacing those
    of the base), ``operations`` (list of {do, of, start, end, skip_data}), ``flows`` (kernel, firmware, none: {pc, x0, measured, extended,
    places}). Raises ``InvalidDocument`` (``document.vmm-profile``) that names the key.
    """
    base = SHIPPED.get(_text(document.get("extends"), "extends"))
    if base is None:
        raise _invalid("extends", f"must be one of {', '.join(SHIPPED)}")
    for name in _TEXTS:
        if name not in document:
            raise _invalid(name, "is missing")
    changes: dict[str, Any] = {}
    for key, value in document.items():
        if key == "extends":
            continue
        if key in _TEXTS:
            changes[key] = _text(value, key)
        elif key in _NUMBERS:
            changes[key] = _number(value, key)
        elif key in _READERS:
            changes["hash_algorithm" if key == "hash" else key] = _READERS[key](value, base)
        else:
            raise _invalid(key[:40], "is not a key of a VMM profile")
    try:
        return replace(base, **changes)
    except ValueError as error:
        raise _invalid("profile", str(error)) from None


def _regions(value: Any, base: VmmProfile) -> Mapping[str, Region]:
    regions = dict(base.regions)
    for name, pair in _table(value, "regions").items():
        where = f"regions.{name[:40]}"
        if name not in regions:
            raise _invalid(where, f"is not a device of {base.name}; they are {', '.join(regions)}")
        numbers = _list(pair, where)
        if len(numbers) != 2:
            raise _invalid(where, "must be [base, size]")
        regions[name] = Region(_number(numbers[0], where), _number(numbers[1], where))
    return MappingProxyType(regions)


def _features(value: Any, _base: VmmProfile) -> frozenset[str]:
    return frozenset(_names(value, "features"))


def _hash(value: Any, _base: VmmProfile) -> HashAlgorithm:
    try:
        return HashAlgorithm.from_name(_text(value, "hash"))
    except ValueError:
        raise _invalid("hash", "must be sha256, sha384 or sha512") from None


def _operations(value: Any, _base: VmmProfile) -> tuple[OperationRule, ...]:
    rules = []
    for number, item in enumerate(_list(value, "operations")):
        where = f"operations[{number}]"
        members = _members(item, where, ("do",), ("of", "start", "end", "skip_data"))
        given = {name: _text(members[name], f"{where}.{name}") for name in ("start", "end") if name in members}
        things = tuple(_names(members.get("of", []), f"{where}.of"))
        kind: Any = _text(members["do"], f"{where}.do")
        skip = _switch(members.get("skip_data", False), f"{where}.skip_data")
        rules.append(_made(where, partial(OperationRule, kind=kind, things=things, skip_data=skip, **given)))
    return tuple(rules)


def _flows(value: Any, base: VmmProfile) -> Mapping[Boot, BootFlow]:
    flows = dict(base.flows)
    given = _members(value, "flows", (), get_args(Boot))
    for boot in get_args(Boot):
        if boot in given:
            flows[boot] = _flow(given[boot], f"flows.{boot}")
    return MappingProxyType(flows)


def _flow(item: Any, where: str) -> BootFlow:
    members = _members(item, where, ("pc", "x0", "measured", "places"), ("extended",))
    places = tuple(_place(place, f"{where}.places[{number}]") for number, place in enumerate(_list(members["places"], f"{where}.places")))
    return _made(
        where,
        lambda: BootFlow(
            places=places,
            measured=tuple(_names(members["measured"], f"{where}.measured")),
            extended=tuple(_names(members.get("extended", []), f"{where}.extended")),
            pc=_text(members["pc"], f"{where}.pc"),
            x0=_text(members["x0"], f"{where}.x0"),
        ),
    )


def _place(item: Any, where: str) -> PlacementRule:
    members = _members(item, where, ("thing", "rule", "of"), ("offset", "align", "slack", "text_offset"))
    numbers = {name: _number(members[name], f"{where}.{name}") for name in ("offset", "align", "slack") if name in members}
    switch = _switch(members.get("text_offset", False), f"{where}.text_offset")
    rule: Any = _text(members["rule"], f"{where}.rule")
    return _made(
        where,
        lambda: PlacementRule(
            thing=_text(members["thing"], f"{where}.thing"),
            rule=rule,
            of=tuple(_names(members["of"], f"{where}.of")),
            text_offset=switch,
            **numbers,
        ),
    )


_READERS: Mapping[str, Callable[[Any, VmmProfile], Any]] = {
    "hash": _hash,
    "features": _features,
    "regions": _regions,
    "operations": _operations,
    "flows": _flows,
}


def _made(where: str, make: Callable[[], _Made]) -> _Made:
    try:
        return make()
    except ValueError as error:
        raise _invalid(where, str(error)) from None


def _members(value: Any, where: str, required: tuple[str, ...], optional: tuple[str, ...]) -> Mapping[str, Any]:
    table = _table(value, where)
    for name in required:
        if name not in table:
            raise _invalid(f"{where}.{name}", "is missing")
    for name in table:
        if name not in required and name not in optional:
            raise _invalid(f"{where}.{name[:40]}", "is not a key that we know")
    return table


def _table(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _invalid(where, "must be a table")
    return value


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list) or len(value) > 100:
        raise _invalid(where, "must be a list of at most 100 items")
    return value


def _names(value: Any, where: str) -> list[str]:
    return [_text(item, where) for item in _list(value, where)]


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 200:
        raise _invalid(where, "must be text of up to 200 characters")
    return value


def _switch(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise _invalid(where, "must be true or false")
    return value


def _number(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < _U64:
        raise _invalid(where, "must be a whole number that is not negative")
    return value


def _invalid(where: str, problem: str) -> InvalidDocument:
    return InvalidDocument("document.vmm-profile", f"{where}: {problem}")
