"""What ``kbs-rim measure`` prints: five lines, JSON, every operation with the RIM after it."""

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from kbs_rim.measurement.chain_kernel import RIM_FIELD_SIZE

if TYPE_CHECKING:
    from kbs_rim.measurement.rmm import RealmCreate, RmmVersion
    from kbs_rim.measurement.vmm.calculation import Calculation, MeasurementPlan, Step
    from kbs_rim.measurement.vmm.definition import VmDefinition
    from kbs_rim.measurement.vmm.profile import VmLayout
    from kbs_rim.measurement.vmm.request import EffectiveHost
    from kbs_rim.measurement.vmm.vmm_profile import VmmProfile

_GPRS_SHOWN = 1
_MAX_DECIMAL = 4096


def document_of(
    definition: "VmDefinition",
    profile: "VmmProfile",
    host: "EffectiveHost",
    plan: "MeasurementPlan",
    rmm: "RmmVersion",
    calculation: "Calculation | None",
) -> dict[str, Any]:
    """Return the JSON document: registers in hex as long as the realm's digest, operations as text, parameters as real counts."""
    layout = plan.layout
    document: dict[str, Any] = {
        "vmm": profile.vmm,
        "profile": {"name": profile.name, "version": profile.version},
        "rmm": rmm.value,
        "hash_algorithm": plan.algorithm.compact_name,
    }
    if calculation is not None:
        document |= {"rim": calculation.rim.hex(), "rem": [value.hex() for value in calculation.rem]}
    return document | {
        "operations": [str(operation) for operation in plan.operations],
        "parameters": parameters_of(host, plan),
        "realm_create": _raw(layout.params),
        "dtb_sha256": hashlib.sha256(layout.device_tree).hexdigest(),
        "dtb_size": len(layout.device_tree),
        "layout": {
            "ram": {"base": hex(layout.ram.base), "size": hex(layout.ram.size)},
            "images": [{"role": place.role, "base": hex(place.base), "size": place.size} for place in layout.loads],
            "extended_into_rem0": list(plan.extended),
            "log": None if layout.log_area is None else {"base": hex(layout.log_area.base), "size": hex(layout.log_area.size)},
            "pc": hex(layout.pc),
            "x0": hex(layout.x0),
        },
        "rpv": None if definition.rpv is None else definition.rpv.hex(),
        "ignored": list(definition.ignored),
        "remarks": [*definition.remarks, *host.remarks],
    }


def parameters_of(host: "EffectiveHost", plan: "MeasurementPlan") -> dict[str, Any]:
    """Return the realm's parameters as people count them. Where there is no PMU, its counters are the host's and are not measured."""
    params = plan.layout.params
    known = host.capabilities
    return {
        "ipa_bits": params.s2sz,
        "num_bps": params.num_bps + 1,
        "num_wps": params.num_wps + 1,
        "sve_vl": known.sve_vl or 0,
        "pmu_num_ctrs": known.pmu_num_ctrs,
        "pmu": host.pmu,
        "lpa2": bool(known.lpa2),
        "hash_algo": plan.algorithm.compact_name,
    }


def print_registers(calculation: "Calculation", *, as_base64: bool, err: bool = False) -> None:
    """Print RIM and REM0 to REM3, a line each: the 64 bytes of the register, of which a shorter digest fills the start."""
    for name, value in (("RIM", calculation.rim), *((f"REM{number}", value) for number, value in enumerate(calculation.rem))):
        register = value.ljust(RIM_FIELD_SIZE, b"\0")
        click.echo(f"{name}: {base64.b64encode(register).decode() if as_base64 else register.hex()}", err=err)


def print_steps(steps: Iterable["Step"], *, err: bool = False) -> None:
    """Print every step as it comes: the RIM after it, how many times it extended the RIM, and what it was."""
    for step in steps:
        click.echo(f"{step.rim.hex()} {step.extensions:>7} {operation_text(step)}", err=err)


def operation_text(step: "Step") -> str:
    """Return one line that names the operation with all that it measures, but for the bytes of images."""
    from kbs_rim.measurement.rmm import DataCreate, RealmCreate, RecCreate, RipasEntry
    from kbs_rim.measurement.vmm.operations import RunnableRec

    match step.operation:
        case RealmCreate():
            return "realm_create " + " ".join(f"{name}={value}" for name, value in _raw(step.operation).items())
        case DataCreate():
            measured = "unmeasured" if step.operation.content_digest is None else "measured"
            return f"data_create {step.operation.ipa:#x} {measured} {step.thing}".rstrip()
        case RipasEntry():
            return f"init_ripas {step.operation.base:#x} {step.operation.top:#x}"
        case RunnableRec():
            return _rec_text(step.operation.rec)
        case RecCreate():
            return _rec_text(step.operation)
        case _:
            return f"{step.operation} {step.thing}".rstrip()


def print_json(document: dict[str, Any], steps: Iterable["Step"] | None = None, *, err: bool = False) -> None:
    """Print one JSON object. ``steps`` become its last member, an object in each line, written as they come: there may be millions."""
    text = json.dumps(document, indent=2)
    if steps is None:
        click.echo(text, err=err)
        return
    click.echo(text.removesuffix("\n}") + ',\n  "steps": [', nl=False, err=err)
    comma = ""
    for step in steps:
        one = {"operation": operation_text(step), "extensions": step.extensions, "rim": step.rim.hex()}
        click.echo(f"{comma}\n    {json.dumps(one)}", nl=False, err=err)
        comma = ","
    click.echo("\n  ]\n}", err=err)


def notes_of(definition: "VmDefinition", host: "EffectiveHost") -> Iterator[str]:
    """Yield what the user should know, safe for a terminal: what was ignored, and what may not be as meant."""
    from kbs_rim.evidence.printable import printable

    if definition.ignored:
        names = ", ".join(printable(name) for name in dict.fromkeys(definition.ignored))
        yield f"ignored, because they cannot change a measurement: {names}"
    yield from (printable(remark) for remark in (*definition.remarks, *host.remarks))


def tree_notes(layout: "VmLayout", cpus: int) -> Iterator[str]:
    """Yield where a given device tree says something else than the VM's own definition; it is measured all the same.

    Raises ``MalformedEvidence`` (``tree.malformed``) for a file that is no device tree that a guest could read.
    """
    from kbs_rim.measurement.device_tree import facts_of, parse_device_tree

    facts = facts_of(parse_device_tree(layout.device_tree), len(layout.device_tree))
    initrd = next(((place.base, place.base + place.size) for place in layout.placements if place.role == "initrd"), facts.initrd)
    log_area = None if layout.log_area is None else tuple(layout.log_area)
    for what, tree, vm in (
        ("memory", facts.memory, (tuple(layout.ram),)),
        ("CPUs", facts.cpus, cpus),
        ("initrd", facts.initrd, initrd),
        ("log area", facts.log_area, log_area),
    ):
        if tree != vm:
            yield f"{what}: the tree has {_numbers(tree)}, the VM {_numbers(vm)}"


def _numbers(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(_numbers(item) for item in value) or "none"
    return "none" if value is None else f"{value:#x}" if value > _MAX_DECIMAL else str(value)


def _rec_text(rec: Any) -> str:
    registers = " ".join(f"x{number}={value:#x}" for number, value in enumerate(rec.gprs) if value or number < _GPRS_SHOWN)
    return f"rec_create flags={rec.flags:#x} pc={rec.pc:#x} {registers}"


def _raw(params: "RealmCreate") -> dict[str, Any]:
    names = ("s2sz", "sve_vl", "num_bps", "num_wps", "pmu_num_ctrs")
    return {"flags": hex(params.flags), **{name: getattr(params, name) for name in names}, "hash_algo": params.hash_algorithm.rmi_code}
