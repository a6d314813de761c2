"""What a host offers its realms: limits from hardware, firmware, hypervisor and RMM, each perhaps unknown.

The keys are those of the configuration files that realm tools share (ipa_bits, num_bps, ...), so that one file serves both. Several
sources are merged by restriction: what is known twice becomes the lower value, so their order does not matter.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from kbs_rim.errors import InvalidDocument
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.measurement.rmm import MAX_IPA_BITS, MIN_IPA_BITS

SVE_STEP, SVE_MAX = 128, 2048
BREAKPOINTS = (2, 64)
PMU_COUNTERS = (0, 31)
_RMI_NAMES = {f"RmiHash{algorithm.compact_name.capitalize()}": algorithm for algorithm in HashAlgorithm}
_RANGES = {"ipa_bits": (MIN_IPA_BITS, MAX_IPA_BITS), "num_bps": BREAKPOINTS, "num_wps": BREAKPOINTS, "pmu_num_ctrs": PMU_COUNTERS}


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCapabilities:
    """The most that a host gives a realm; None is what nobody has said.

    ``ipa_bits`` counts the unprotected half as well, ``num_bps`` and ``num_wps`` are real counts, ``sve_vl`` is the longest vector in
    bits and 0 without SVE. ``hash_algorithm`` is what the hypervisor picks where the VMM does not choose.
    Raises ``InvalidDocument`` (``document.host``) for a value that no RMM accepts.
    """

    ipa_bits: int | None = None
    num_bps: int | None = None
    num_wps: int | None = None
    pmu_num_ctrs: int | None = None
    sve_vl: int | None = None
    pmu: bool | None = None
    lpa2: bool | None = None
    hash_algorithm: HashAlgorithm | None = None

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise _invalid(name, f"must be from {low} to {high}, not {value}")
        if self.sve_vl is not None and (self.sve_vl % SVE_STEP or not 0 <= self.sve_vl <= SVE_MAX):
            raise _invalid("sve_vl", f"must be 0 or a multiple of {SVE_STEP} up to {SVE_MAX} bits, not {self.sve_vl}")

    def restricted_by(self, other: "HostCapabilities") -> "HostCapabilities":
        """Return the lower of every value; what only one side knows is taken, and for booleans False is lower than True.

        A hash algorithm is no limit: the one of ``other`` wins if it has one.
        """
        changes: dict[str, Any] = {}
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if field.name == "hash_algorithm" or mine is None:
                changes[field.name] = mine if theirs is None else theirs
            elif theirs is not None:
                changes[field.name] = min(mine, theirs)
        return replace(self, **changes)

    def overridden_by(self, other: "HostCapabilities") -> "HostCapabilities":
        """Return the same with every value that ``other`` knows, even where it is higher."""
        known = {field.name: getattr(other, field.name) for field in fields(other) if getattr(other, field.name) is not None}
        return replace(self, **known)


def parse_host_capabilities(document: Mapping[str, Any]) -> HostCapabilities:
    """Read a configuration file: flat, every key optional.

    Keys: ipa_bits, num_bps, num_wps, pmu_num_ctrs, sve_vl (whole numbers), pmu, lpa2 (booleans), hash_algo ("sha256", or as the RMM
    names it: "RmiHashSha256"). Raises ``InvalidDocument`` (``document.host``) that names the key.
    """
    values: dict[str, Any] = {}
    for key, value in document.items():
        if key not in _READERS:
            raise _invalid(key[:40], f"is not a key of host capabilities; they are {', '.join(_READERS)}")
        values["hash_algorithm" if key == "hash_algo" else key] = _READERS[key](key, value)
    return HostCapabilities(**values)


def _number(key: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _invalid(key, "must be a whole number")
    return value


def _switch(key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _invalid(key, "must be true or false")
    return value


def _hash(key: str, value: Any) -> HashAlgorithm:
    if isinstance(value, str):
        if value in _RMI_NAMES:
            return _RMI_NAMES[value]
        try:
            return HashAlgorithm.from_name(value)
        except ValueError:
            pass
    raise _invalid(key, "must be sha256, sha384 or sha512")


_READERS: Mapping[str, Callable[[str, Any], Any]] = {
    "ipa_bits": _number,
    "num_bps": _number,
    "num_wps": _number,
    "pmu_num_ctrs": _number,
    "sve_vl": _number,
    "pmu": _switch,
    "lpa2": _switch,
    "hash_algo": _hash,
}


def _invalid(key: str, problem: str) -> InvalidDocument:
    return InvalidDocument("document.host", f"{key}: {problem}")
