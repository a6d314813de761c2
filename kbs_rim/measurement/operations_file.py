"""Files of RMM operations: the format in which RIM test vectors are exchanged (``vectors/rim``).

One JSON object: ``rmm`` ("1.0" or "2.0") and ``cases``; a case holds ``operations`` and perhaps the ``rim`` they give. Every
number is the raw RMI field. The content of a measured page is made from its ``page_seed`` by the rule that ``page_rule`` states.
Read strictly: two readers must not see two different lists.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kbs_rim.errors import InvalidDocument
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.limits import DEFAULT_LIMITS, GRANULE_SIZE, Limits
from kbs_rim.measurement.rmm import DataCreate, RealmCreate, RecCreate, RipasEntry, RmmOperation, RmmVersion

PAGE_RULE = "byte i of a page is ((page_seed*2654435761 + i*40503) mod 2**32) >> 8, low 8 bits"
"""The one rule we know; a file that states another is refused."""
_SEED_FACTOR, _BYTE_STEP = 2654435761, 40503
_STEPS = tuple(number * _BYTE_STEP for number in range(GRANULE_SIZE))
_U8, _U64 = (1 << 8) - 1, (1 << 64) - 1
_REALM_FIELDS = ("s2sz", "sve_vl", "num_bps", "num_wps", "pmu_num_ctrs")
_GPRS = 8


@dataclass(frozen=True, slots=True)
class OperationsCase:
    """One realm's operations, the first of which creates it, and the RIM that the file states, if it does."""

    operations: tuple[RmmOperation, ...]
    rim: bytes | None


@dataclass(frozen=True, slots=True)
class OperationsFile:
    """All cases of a file, for one version of the RMM."""

    rmm: RmmVersion
    cases: tuple[OperationsCase, ...]


def page_of_seed(seed: int) -> bytes:
    """Return the 4096 bytes of a measured page (``PAGE_RULE``)."""
    start = seed * _SEED_FACTOR
    return bytes([start + step >> 8 & 0xFF for step in _STEPS])


def parse_operations_file(data: bytes, limits: Limits = DEFAULT_LIMITS) -> OperationsFile:
    """Read and check a whole file.

    Raises ``InvalidDocument`` (``document.operations``) whose message names case, operation and key, such as
    ``cases[2].operations[0].s2sz``. Members that hold text and mean nothing to us (``note``) are allowed beside ``rmm`` and in a
    case, nothing else.
    """
    if len(data) > limits.operations_file_bytes:
        raise _invalid("file", f"has more than {limits.operations_file_bytes} bytes")
    members = _object(_decode(data), "file", required=("rmm", "cases"), optional=("page_rule",), notes=True)
    if members.get("page_rule", PAGE_RULE) != PAGE_RULE:
        raise _invalid("page_rule", f"is another rule than {PAGE_RULE!r}")
    rmm = _rmm_version(members["rmm"])
    budget = _Budget(limits.operations)
    cases = [_case(value, f"cases[{number}]", rmm, budget) for number, value in enumerate(_list(members["cases"], "cases"))]
    return OperationsFile(rmm, tuple(cases))


class _Budget:
    """How many operations may still come."""

    def __init__(self, operations: int) -> None:
        self._left = operations

    def spend(self, count: int, where: str) -> None:
        self._left -= count
        if self._left < 0:
            raise _invalid(where, "the file has too many operations")


def _decode(data: bytes) -> Any:
    def refuse_constant(name: str) -> Any:
        raise ValueError(f"{name} is not a number")

    def refuse_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("an object has a member twice")
        return found

    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=refuse_repeated, parse_constant=refuse_constant)
    except RecursionError:
        raise _invalid("file", "is nested too deeply") from None
    except ValueError as error:
        raise _invalid("file", f"is not JSON: {error}") from None


def _rmm_version(value: Any) -> RmmVersion:
    for version in RmmVersion:
        if version.value == value:
            return version
    raise _invalid("rmm", f"must be one of {', '.join(version.value for version in RmmVersion)}")


def _case(value: Any, where: str, rmm: RmmVersion, budget: _Budget) -> OperationsCase:
    members = _object(value, where, required=("operations",), optional=("rim",), notes=True)
    items = _list(members["operations"], f"{where}.operations")
    budget.spend(len(items), f"{where}.operations")
    if not items:
        raise _invalid(f"{where}.operations", "is empty: the first operation must create the realm")
    create = _realm_create(items[0], f"{where}.operations[0]", rmm)
    later = _later_operations(items, f"{where}.operations", create.hash_algorithm)
    return OperationsCase((create, *later), _rim(members.get("rim"), f"{where}.rim", create.hash_algorithm))


def _realm_create(value: Any, where: str, rmm: RmmVersion) -> RealmCreate:
    if _kind(value, where) != "realm_create":
        raise _invalid(f"{where}.op", "the first operation must be realm_create")
    members = _object(value, where, required=("op", "hash_algo", "flags", *_REALM_FIELDS))
    name = members["hash_algo"]
    try:
        algorithm = HashAlgorithm.from_name(name if isinstance(name, str) else "")
    except ValueError:
        raise _invalid(f"{where}.hash_algo", "must be sha256, sha384 or sha512") from None
    if algorithm is HashAlgorithm.SHA384 and rmm is RmmVersion.V1_0:
        raise _invalid(f"{where}.hash_algo", "RMM 1.0 has no SHA-384")
    flags = _number(members["flags"], f"{where}.flags", _U64)
    return RealmCreate(algorithm, flags, **{name: _number(members[name], f"{where}.{name}", _U8) for name in _REALM_FIELDS})


def _later_operations(items: list[Any], where: str, algorithm: HashAlgorithm) -> Iterator[RmmOperation]:
    for number, value in enumerate(items[1:], start=1):
        place = f"{where}[{number}]"
        kind = _kind(value, place)
        if kind == "realm_create":
            raise _invalid(f"{place}.op", "a realm is created exactly once, before every other operation")
        yield _READERS[kind](value, place, algorithm)


def _data_create(value: Any, where: str, algorithm: HashAlgorithm) -> RmmOperation:
    measured = value.get("measured")
    if not isinstance(measured, bool):
        raise _invalid(f"{where}.measured", "must be true or false")
    members = _object(value, where, required=("op", "ipa", "measured", "page_seed") if measured else ("op", "ipa", "measured"))
    ipa = _aligned(members["ipa"], f"{where}.ipa")
    if not measured:
        return DataCreate(ipa, None)
    return DataCreate(ipa, algorithm.digest(page_of_seed(_number(members["page_seed"], f"{where}.page_seed", _U64))))


def _ripas_entry(value: Any, where: str, _algorithm: HashAlgorithm) -> RmmOperation:
    members = _object(value, where, required=("op", "base", "top"))
    base, top = _aligned(members["base"], f"{where}.base"), _aligned(members["top"], f"{where}.top")
    if base >= top:
        raise _invalid(f"{where}.top", "must be above base")
    return RipasEntry(base, top)


def _rec_create(value: Any, where: str, _algorithm: HashAlgorithm) -> RmmOperation:
    members = _object(value, where, required=("op", "flags", "pc", "gprs"))
    gprs = _list(members["gprs"], f"{where}.gprs")
    if len(gprs) != _GPRS:
        raise _invalid(f"{where}.gprs", f"must be {_GPRS} numbers")
    a, b, c, d, e, f, g, h = (_number(gpr, f"{where}.gprs[{number}]", _U64) for number, gpr in enumerate(gprs))
    return RecCreate(
        _number(members["flags"], f"{where}.flags", _U64), _number(members["pc"], f"{where}.pc", _U64), (a, b, c, d, e, f, g, h)
    )


_READERS: Mapping[str, Callable[[Any, str, HashAlgorithm], RmmOperation]] = {
    "data_create": _data_create,
    "ripas_entry": _ripas_entry,
    "rec_create": _rec_create,
}


def _kind(value: Any, where: str) -> str:
    if not isinstance(value, dict):
        raise _invalid(where, "must be an object")
    kind = value.get("op")
    if not isinstance(kind, str) or kind not in ("realm_create", *_READERS):
        raise _invalid(f"{where}.op", f"must be one of realm_create, {', '.join(_READERS)}")
    return kind


def _rim(value: Any, where: str, algorithm: HashAlgorithm) -> bytes | None:
    if value is None:
        return None
    try:
        rim = bytes.fromhex(value if isinstance(value, str) else "")
    except ValueError:
        rim = b""
    if len(rim) != algorithm.digest_size:
        raise _invalid(where, f"must be {algorithm.digest_size} bytes in hex")
    return rim


def _object(value: Any, where: str, *, required: tuple[str, ...], optional: tuple[str, ...] = (), notes: bool = False) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _invalid(where, "must be an object")
    for name in required:
        if name not in value:
            raise _invalid(f"{where}.{name}", "is missing")
    for name in value:
        if name not in required and name not in optional and not (notes and isinstance(value[name], str)):
            raise _invalid(f"{where}.{name[:40]}", "is not a member we know")
    return value


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise _invalid(where, "must be a list")
    return value


def _number(value: Any, where: str, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= high:
        raise _invalid(where, f"must be a whole number from 0 to {high:#x}")
    return value


def _aligned(value: Any, where: str) -> int:
    number = _number(value, where, _U64)
    if number % GRANULE_SIZE:
        raise _invalid(where, f"must be a multiple of {GRANULE_SIZE}")
    return number


def _invalid(where: str, problem: str) -> InvalidDocument:
    return InvalidDocument("document.operations", f"{where}: {problem}")
