"""The workload that a VM satisfies and, as far as its definition goes, nothing else: every rule is as narrow as what is known."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kbs_rim.appraisal.workload import Workload, parse_workload
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.measurement.device_tree import DeviceTreeFacts, facts_of, parse_device_tree
from kbs_rim.measurement.image import ImageMeasurements, measure_image
from kbs_rim.measurement.rmm import RmmVersion
from kbs_rim.measurement.vmm.definition import CpuTopology
from kbs_rim.measurement.vmm.host_capabilities import BREAKPOINTS, PMU_COUNTERS, SVE_MAX, SVE_STEP
from kbs_rim.measurement.vmm.request import boot_of
from kbs_rim.measurement.vmm.shipped_profiles import SHIPPED
from kbs_rim.workload_sources.subject import DraftSubject, Outcome, outcomes_of, refuse_draft

_LOG_NAMES = {"qemu": "QEMU", "kvmtool": "kvmtool"}
"""How VMMs call themselves in their logs; cloud-hypervisor writes none."""
_IPA_BITS = (32, 48)
"""What a workload allows unless it says something else."""


@dataclass(frozen=True, slots=True)
class Draft:
    """``document`` is the workload as it would be written by hand, ``workload`` the same with every default.

    ``trees`` are the device trees that have to be registered, measured, beside the images; none if trees are judged by rules.
    """

    document: Mapping[str, Any]
    workload: Workload
    outcomes: tuple[Outcome, ...]
    trees: tuple[ImageMeasurements, ...] = field(repr=False)
    facts: DeviceTreeFacts
    """Of the first outcome's device tree."""


def draft_workload(subject: DraftSubject) -> Draft:
    """Return the workload for a VM.

    Raises ``InvalidDocument`` as ``outcomes_of`` does, and ``document.workload-draft`` for a VM that no workload could let in.
    Raises ``MalformedEvidence`` (``tree.malformed``) for a device tree that a guest could not read.
    """
    boot = boot_of(subject.definition)
    if boot == "none":
        raise refuse_draft("the VM starts neither a kernel nor firmware that is known here: nothing would be measured")
    subject_outcomes = outcomes_of(subject)
    first = subject_outcomes[0]
    facts = facts_of(parse_device_tree(first.tree), len(first.tree))
    trees: tuple[ImageMeasurements, ...] = ()
    if subject.tree_mode == "registered":
        trees = tuple(measure_image(tree) for tree in dict.fromkeys(outcome.tree for outcome in subject_outcomes))
    layout = first.plan.layout
    document: dict[str, Any] = {"name": subject.name}
    document |= {"description": subject.description} if subject.description else {}
    document |= {"vmm": [_LOG_NAMES[subject.definition.vmm]]} if subject.definition.measurement_log else {}
    document |= {
        "entry": {"role": boot, "x0": "device-tree" if layout.x0 else "zero"},
        "images": [*_image_rules(subject, first), *_tree_rule(first, trees, subject)],
        "memory": {"base": hex(layout.ram.base), "size": {"min": layout.ram.size, "max": layout.ram.size}},
    }
    if subject.tree_mode == "rules":
        document["device_tree"] = _tree_rules(subject, facts)
    document["rmm"] = _rmm(subject, subject_outcomes)
    if parameters := _parameters(subject, subject_outcomes):
        document["parameters"] = parameters
    if subject.definition.rpv is not None and any(subject.definition.rpv):
        document["realm"] = {"rpv": subject.definition.rpv.hex()}
    if can_define(subject):
        document["definition"] = _definition(subject, subject_outcomes)
    return Draft(document, parse_workload(document), subject_outcomes, trees, facts)


def can_define(subject: DraftSubject) -> bool:
    """Return whether a workload's table ``definition`` can say what this VM is: its host is known, its profile ships, its tree is known."""
    ours = SHIPPED.get(subject.profile.name) == subject.profile
    topology = subject.definition.topology
    stock = bool(subject.stock_tree) and topology == CpuTopology(cores=topology.count)
    ours_tree = subject.tree is None or subject.tree_mode == "registered" or stock
    return bool(subject.hosts) and ours and ours_tree


def _image_rules(subject: DraftSubject, outcome: Outcome) -> Iterable[Mapping[str, Any]]:
    layout = outcome.plan.layout
    for place in layout.placements:
        rule: dict[str, Any] = {"role": place.role, "images": [subject.images[place.role].image_id]}
        outside = not layout.ram.base <= place.base < layout.ram.end
        if outside or subject.exact_addresses:
            rule["addresses"] = [{"min": hex(place.base), "max": hex(place.base)}]
        yield rule


def _tree_rule(outcome: Outcome, trees: tuple[ImageMeasurements, ...], subject: DraftSubject) -> Iterable[Mapping[str, Any]]:
    """A tree that must be registered; under rules it is in no list."""
    if not trees:
        return
    rule: dict[str, Any] = {"role": "device-tree", "images": [tree.image_id for tree in trees]}
    base = outcome.plan.layout.device_tree_base
    if subject.exact_addresses:
        rule["addresses"] = [{"min": hex(base), "max": hex(base)}]
    yield rule


def _tree_rules(subject: DraftSubject, facts: DeviceTreeFacts) -> Mapping[str, Any]:
    """Whatever else the tree says, command line and CPUs are those of the definition."""
    cpus = subject.definition.topology.count
    table: dict[str, Any] = {"mode": "rules", "pack": subject.profile.tree, "cpus": {"min": cpus, "max": cpus}}
    return table | ({"bootargs": {"exact": [facts.bootargs]}} if facts.bootargs else {})


def _rmm(subject: DraftSubject, outcomes: tuple[Outcome, ...]) -> Mapping[str, Any]:
    table: dict[str, Any] = {"versions": [version.value for version in subject.versions], "roundings": list(subject.page_sizes)}
    if algorithms := known_hashes(subject, outcomes):
        table["hash_algorithms"] = [algorithm.value for algorithm in algorithms]
    return table


def known_hashes(subject: DraftSubject, outcomes: tuple[Outcome, ...]) -> tuple[HashAlgorithm, ...]:
    """Return the realm's hash where the definition or every host decides it, else nothing."""
    if subject.definition.hash_algorithm is not None:
        return (subject.definition.hash_algorithm,)
    if subject.hosts and all(host.capabilities.hash_algorithm is not None for host in subject.hosts):
        return tuple(dict.fromkeys(outcome.effective.hash_algorithm for outcome in outcomes))
    return ()


def _parameters(subject: DraftSubject, outcomes: tuple[Outcome, ...]) -> dict[str, Any]:
    if not subject.hosts:
        return _parameters_of_definition(subject, outcomes[0])
    known = [outcome.effective.capabilities for outcome in outcomes]
    params = [outcome.plan.layout.params for outcome in outcomes]
    table: dict[str, Any] = {
        "ipa_bits": _span(item.s2sz for item in params),
        "breakpoints": _span(item.num_bps + 1 for item in params),
        "watchpoints": _span(item.num_wps + 1 for item in params),
    }
    if vectors := [item.sve_vl for item in known if item.sve_vl]:
        table |= {"sve": True, "sve_vector_bits": _span(vectors)}
    if counters := [item.pmu_num_ctrs for item, outcome in zip(params, outcomes, strict=True) if outcome.effective.pmu]:
        table |= {"pmu": True, "pmu_counters": _span(counters)}
    return table | ({"lpa2": True} if any(item.lpa2 for item in known) else {})


def _parameters_of_definition(subject: DraftSubject, outcome: Outcome) -> dict[str, Any]:
    """Without a host: what the definition itself limits. A feature that it does not ask for stays refused."""
    limits, table = subject.definition.limits, dict[str, Any]()
    for name, value in (("breakpoints", limits.num_bps), ("watchpoints", limits.num_wps)):
        if value is not None:
            table[name] = {"min": BREAKPOINTS[0], "max": value}
    asked = [switch.bits for switch in subject.definition.sve_switches if switch.on and switch.bits]
    if longest := limits.sve_vl if limits.sve_vl is not None else max(asked, default=0):
        table |= {"sve": True, "sve_vector_bits": {"min": SVE_STEP, "max": min(longest, SVE_MAX)}}
    if subject.definition.pmu:
        counters = PMU_COUNTERS[1] if limits.pmu_num_ctrs is None else limits.pmu_num_ctrs
        table |= {"pmu": True, "pmu_counters": {"min": 0, "max": counters}}
    bits = outcome.plan.layout.params.s2sz
    return table | ({} if _IPA_BITS[0] <= bits <= _IPA_BITS[1] else {"ipa_bits": {"min": bits, "max": bits}})


def _span(values: Iterable[int]) -> dict[str, int]:
    found = list(values)
    return {"min": min(found), "max": max(found)}


def _definition(subject: DraftSubject, outcomes: tuple[Outcome, ...]) -> Mapping[str, Any]:
    """The table from which a broker derives a plan where no log says it; what differs between the hosts may vary, and nothing else."""
    vm = subject.definition
    params = [outcome.plan.layout.params for outcome in outcomes]
    known = [outcome.effective for outcome in outcomes]
    table: dict[str, Any] = {
        "vmm": vm.vmm,
        "without_log": not vm.measurement_log,
        "profiles": [subject.profile.name],
        "cpus": [vm.topology.count],
        "ram": [vm.ram_size],
        "device_trees": ["registered" if subject.tree_mode == "registered" else subject.stock_tree or "generated"],
        "breakpoints": _each(item.num_bps + 1 for item in params),
        "watchpoints": _each(item.num_wps + 1 for item in params),
        "pmu_counters": _each(item.pmu_num_ctrs if host.pmu else "off" for item, host in zip(params, known, strict=True)),
        "sve_vector_bits": _each(host.capabilities.sve_vl or "off" for host in known),
        "ipa_bits": _each(item.s2sz for item in params),
        "lpa2": _switch(bool(host.capabilities.lpa2) for host in known),
        "measurement_log": "on" if vm.measurement_log else "off",
        "its": "on" if vm.its else "off",
        "serial": vm.serial,
    }
    optional = {
        "bootargs": [vm.bootargs] if vm.bootargs is not None else None,
        "ram_max": vm.ram_max,
        "hotplug_slots": vm.hotplug_slots or None,
        "virtio_mmio": vm.virtio_mmio or None,
        "firmware_address": vm.firmware_base,
        "host_address_bits": subject.stock_address_bits or None,
        **{f"fw_cfg_{thing}": subject.images[thing].image_id for thing in _handed_over(subject)},
    }
    return table | {key: value for key, value in optional.items() if value is not None}


def _handed_over(subject: DraftSubject) -> tuple[str, ...]:
    """Kernel and initrd that the RIM does not cover, because firmware fetches them."""
    flow = subject.profile.flows[boot_of(subject.definition)]
    return tuple(thing for thing in ("kernel", "initrd") if thing in subject.definition.images and thing not in flow.measured)


def _each(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def _switch(values: Iterable[bool]) -> str:
    found = set(values)
    return "either" if len(found) > 1 else "on" if True in found else "off"


def usable_versions(wanted: tuple[RmmVersion, ...], algorithm: HashAlgorithm | None) -> tuple[RmmVersion, ...]:
    """Leave out versions of the RMM that do not have the realm's hash: 1.0 has no SHA-384."""
    if algorithm is not HashAlgorithm.SHA384:
        return wanted
    return tuple(version for version in wanted if version is not RmmVersion.V1_0) or (RmmVersion.V2_0,)
