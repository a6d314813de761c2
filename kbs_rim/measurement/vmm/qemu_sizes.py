"""QEMU's -m and -smp, which may stand on a command line several times: their keys are merged, the last value of each counts."""

from collections.abc import Mapping
from typing import NamedTuple

from kbs_rim.limits import DEFAULT_LIMITS, MIB
from kbs_rim.measurement.vmm.argument_values import parse_number, parse_size, split_properties
from kbs_rim.measurement.vmm.definition import CpuTopology, refuse_argument
from kbs_rim.measurement.vmm.option_scanner import GivenOption

DEFAULT_RAM = 128 * MIB
_RAM_STEP = 8192
"""QEMU rounds the RAM up to a multiple of this."""
_MOST_SLOTS = 256
_MEMORY_KEYS = ("size", "slots", "maxmem")
_LEVELS = ("sockets", "clusters", "cores", "threads")
_UNIFORM = ("dies", "modules", "books", "drawers")
"""Levels of -smp that Arm machines do not have."""
SMP_KEYS = ("cpus", "maxcpus", *_LEVELS, *_UNIFORM)


class QemuMemory(NamedTuple):
    """RAM in bytes; how much it may become, None if that is not said; slots for more."""

    size: int
    largest: int | None
    slots: int


class QemuCpus(NamedTuple):
    """CPUs that are there from the start, and the shape of all that there may be."""

    cpus: int
    shape: CpuTopology


def merge_memory(option: GivenOption, given: dict[str, str]) -> None:
    """Add what one -m says; raises ``InvalidDocument`` (``document.vm-arguments``) for a key that it does not have."""
    _merge(option, given, "size", _MEMORY_KEYS)


def merge_smp(option: GivenOption, given: dict[str, str]) -> None:
    """Add what one -smp says; raises as ``merge_memory`` does."""
    _merge(option, given, "cpus", SMP_KEYS)


def memory_of(given: Mapping[str, str]) -> QemuMemory:
    """Return what all -m say together. Raises ``InvalidDocument`` (``document.vm-arguments``)."""
    size = -(-parse_size("-m", given["size"], hexadecimal=True) // _RAM_STEP) * _RAM_STEP if "size" in given else DEFAULT_RAM
    largest = parse_size("-m maxmem", given["maxmem"], hexadecimal=True) if "maxmem" in given else None
    if largest is not None and largest < size:
        raise refuse_argument("-m", "maxmem is below size")
    return QemuMemory(size, largest, parse_number("-m slots", given.get("slots", "0"), 0, _MOST_SLOTS))


def cpus_of(given: Mapping[str, str]) -> QemuCpus:
    """Return what all -smp say together; what they leave open is filled in as QEMU does since 6.2: cores, then sockets, then threads.

    Raises ``InvalidDocument`` (``document.vm-arguments``).
    """
    counts = {key: parse_number("-smp" if key == "cpus" else f"-smp {key}", text, 1, DEFAULT_LIMITS.cpus) for key, text in given.items()}
    for key in _UNIFORM:
        if counts.get(key, 1) != 1:
            raise refuse_argument(f"-smp {key}", "the virt machine has one at most")
    total = counts.get("maxcpus", counts.get("cpus", 0))
    shape = {name: counts.get(name, 1) for name in _LEVELS}
    open_level = next((name for name in ("cores", "sockets", "threads") if name not in counts), None)
    if total and open_level is not None:
        shape[open_level] = max(1, total // CpuTopology(**shape).count)
    topology = CpuTopology(**shape)
    if total and topology.count != total:
        product = " x ".join(f"{count} {name}" for name, count in shape.items())
        raise refuse_argument("-smp", f"{product} do not make {total} CPUs")
    return QemuCpus(counts.get("cpus", topology.count), topology)


def _merge(option: GivenOption, given: dict[str, str], first: str, keys: tuple[str, ...]) -> None:
    """Only the first item may stand without its key."""
    for position, (key, value) in enumerate(split_properties(option.value, escaped=True)):
        name = key or (first if not position else value)
        if name not in keys or not (key or not position):
            raise refuse_argument(option.written, f"{name[:40]} is not one of {', '.join(keys)}")
        given[name] = value
