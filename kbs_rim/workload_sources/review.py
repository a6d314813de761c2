"""What an administrator should read before a workload that was drafted by a program decides over a secret."""

from collections.abc import Iterator
from dataclasses import dataclass

from kbs_rim.evidence.printable import printable
from kbs_rim.measurement.device_tree import parse_device_tree
from kbs_rim.measurement.device_tree_seeds import seeds_in
from kbs_rim.measurement.vmm.request import boot_of
from kbs_rim.workload_sources.draft import Draft, can_define, known_hashes
from kbs_rim.workload_sources.subject import DraftSubject

_BOOTARGS_SHOWN = 400


@dataclass(frozen=True, slots=True)
class RuleMeaning:
    """One rule in words: its key in the workload, its value, what a realm must therefore be."""

    key: str
    value: str
    meaning: str


@dataclass(frozen=True, slots=True)
class ExpectedRim:
    """The RIM of one host, RMM and page size, to be compared with a realm's token."""

    host: str
    rmm: str
    hash_algorithm: str
    page_size: int
    rim: bytes


@dataclass(frozen=True, slots=True)
class Review:
    """``left_open`` is what the definition does not decide, and what the workload therefore says of it. All text can be shown."""

    rules: tuple[RuleMeaning, ...]
    left_open: tuple[str, ...]
    warnings: tuple[str, ...]
    rims: tuple[ExpectedRim, ...]


def review_of(subject: DraftSubject, draft: Draft) -> Review:
    """Return what is to be said of a draft."""
    rims = [
        ExpectedRim(outcome.host, outcome.rmm.value, outcome.plan.algorithm.compact_name, outcome.page_size, outcome.rim)
        for outcome in draft.outcomes
        if outcome.rim is not None
    ]
    return Review(tuple(_rules(subject, draft)), tuple(_left_open(subject, draft)), tuple(_warnings(subject, draft)), tuple(rims))


def _rules(subject: DraftSubject, draft: Draft) -> Iterator[RuleMeaning]:
    workload = draft.workload
    if workload.vmm:
        yield RuleMeaning("vmm", ", ".join(workload.vmm), "the log says that this VMM wrote it (nobody measures that)")
    entry = f"{workload.entry.role.value}, x0 {workload.entry.x0}"
    yield RuleMeaning("entry", entry, "the first vCPU starts at the first byte of this image, with this in x0")
    places = {place.role: place for place in draft.outcomes[0].plan.layout.loads}
    for rule in workload.images:
        where = f"; this definition puts it at {places[rule.role.value].base:#x}" if rule.role.value in places else ""
        bound = "at that address only" if rule.addresses else "anywhere in RAM"
        yield RuleMeaning(f"images {rule.role.value}", ", ".join(rule.images), f"one of these bytes is loaded, {bound}{where}")
    size = workload.memory.size
    yield RuleMeaning("memory", f"{size.min} bytes from {workload.memory.base:#x}", "the RAM is this range, no more and no less")
    yield from _tree_rules(draft)
    yield RuleMeaning("rmm.versions", ", ".join(version.value for version in workload.rmm.versions), "whose rules may have measured it")
    hashes = ", ".join(algorithm.value for algorithm in workload.rmm.hash_algorithms)
    yield RuleMeaning("rmm.hash_algorithms", hashes, "the realm's hash")
    yield from _parameter_rules(draft)
    rpv = workload.realm.rpv
    meaning = "the host gave the realm no personalization value" if rpv == "zero" else "the host gave the realm this personalization value"
    yield RuleMeaning("realm.rpv", rpv, meaning)
    yield RuleMeaning("realm.rems", ", ".join(map(str, workload.realm.rems)), "nothing was measured at run time")
    if workload.definition is not None:
        count = workload.definition.size(1, max(1, len(draft.trees)))
        yield RuleMeaning("definition", f"{count} {'VM' if count == 1 else 'VMs'} to try", _definition_meaning(draft))


def _definition_meaning(draft: Draft) -> str:
    workload = draft.workload
    if workload.definition is not None and workload.definition.without_log:
        return "the VMM writes no log: the broker derives it"
    made = "; a device tree that the guest does not send is made anew" if workload.device_tree.judges else ""
    return f"a log comes with the token, as the VMM writes one{made}"


def _tree_rules(draft: Draft) -> Iterator[RuleMeaning]:
    rules = draft.workload.device_tree
    if not rules.judges:
        yield RuleMeaning("device_tree", "registered", "the device tree is one of the images above, byte for byte")
        return
    source = "which the guest sends or the broker makes anew" if draft.workload.definition else "which the guest must send"
    yield RuleMeaning("device_tree.pack", rules.pack, f"each node of the tree, {source}, keeps the rules of this pack")
    exact = rules.bootargs.exact
    text = f'"{printable(exact[0], _BOOTARGS_SHOWN)}"' if exact else "(none)"
    yield RuleMeaning("device_tree.bootargs", text, "the kernel's command line is this, exactly")
    yield RuleMeaning("device_tree.cpus", str(rules.cpus.min), "the tree has this many CPUs")


def _parameter_rules(draft: Draft) -> Iterator[RuleMeaning]:
    rules = draft.workload.parameters
    for name in ("ipa_bits", "breakpoints", "watchpoints"):
        bounds = getattr(rules, name)
        yield RuleMeaning(f"parameters.{name}", bounds.shown, "exactly" if bounds.exact else "any of these")
    sve = f"{rules.sve_vector_bits.shown} bits" if rules.sve else "off"
    yield RuleMeaning("parameters.sve", sve, "vectors of this length" if rules.sve else "a realm with SVE is refused")
    lpa2 = ("on", "52-bit addresses may be on") if rules.lpa2 else ("off", "a realm with LPA2 is refused")
    yield RuleMeaning("parameters.lpa2", *lpa2)
    pmu = f"{rules.pmu_counters.shown} counters" if rules.pmu else "off"
    yield RuleMeaning("parameters.pmu", pmu, "a PMU may be there" if rules.pmu else "a realm with a PMU is refused")


def _left_open(subject: DraftSubject, draft: Draft) -> Iterator[str]:
    vm, profile = subject.definition, subject.profile
    yield f"the VMM's version: taken for {profile.name} {profile.version}. Another may have other places, trees, orders"
    if not subject.hosts:
        yield "the host: breakpoints, watchpoints, SVE and PMU are its choice. Name hosts with -c: rules become exact, RIMs are shown"
    elif len(subject.hosts) > 1:
        yield f"the host: any of {', '.join(host.name for host in subject.hosts)}, and everything between what they offer"
    if not known_hashes(subject, draft.outcomes):
        shown = draft.outcomes[0].plan.algorithm.compact_name
        yield f"the realm's hash: all are allowed. {profile.name} takes {shown} by itself, and RIMs shown here are of that (--hash-algo)"
    if vm.pmu is None and not subject.hosts and vm.vmm != "kvmtool":
        yield "the PMU: a host that has one gives it to the realm, which this workload refuses. Write pmu=off, or name the host"
    if not subject.hosts and vm.limits.sve_vl is None and not vm.sve_switches and vm.vmm != "cloud-hypervisor":
        yield "SVE: a host that has it gives it to the realm, which this workload refuses. Switch it off, or name the host"
    sizes = ", ".join(map(str, subject.page_sizes))
    yield f"the hosts' page size: taken for {sizes} bytes (--page-size)"
    orders = ", ".join(order.value for order in draft.workload.rmm.orders)
    yield f"the order of operations: {orders} are tried. RIMs shown here are in the order of {profile.name}"
    if not vm.measurement_log and draft.workload.definition is None:
        yield "the log: none is asked for. The broker then needs the table definition: name a host (-c) and a shipped profile"


def _warnings(subject: DraftSubject, draft: Draft) -> Iterator[str]:
    vm, boot = subject.definition, boot_of(subject.definition)
    if boot == "firmware":
        yield "firmware starts first: what it starts is not in the RIM, and with REMs of zero nothing tells; write the table runtime"
    for thing in draft.outcomes[0].plan.extended:
        yield f"the {thing} goes through the firmware: only what that measures (REM0) could tell. This workload accepts none of it"
    bootargs = draft.facts.bootargs
    if boot == "kernel" and not bootargs:
        yield "there is no command line: whatever the initrd and the disk say decides what the kernel runs"
    if not draft.workload.device_tree.judges:
        yield from _tree_warnings(draft)
    if boot == "kernel" and "initrd" not in vm.images:
        yield "there is no initrd: the root file system comes from a disk, which nothing measures"
    if not vm.measurement_log and not can_define(subject):
        yield "no realm can pass yet: there is no log, and no table definition in its place"
    if vm.rpv is None:
        yield "there is no personalization value: every realm of this definition looks the same to the broker"
    yield from (printable(remark) for remark in vm.remarks)
    yield from (printable(change) for change in vm.tree_changes)
    yield from dict.fromkeys(printable(remark) for outcome in draft.outcomes for remark in outcome.effective.remarks)


def _tree_warnings(draft: Draft) -> Iterator[str]:
    """Registered trees are taken on the administrator's word: nobody judges what they say."""
    tree = draft.outcomes[0]
    if seeds := seeds_in(parse_device_tree(tree.tree)):
        yield f"the device tree holds {' and '.join(seeds)}: the same at each boot, and known to the host"
    layout = tree.plan.layout
    initrd = next(((place.base, place.base + place.size) for place in layout.placements if place.role == "initrd"), None)
    if draft.facts.memory != (tuple(layout.ram),):
        yield "the device tree names other RAM than the VM has: no realm can pass"
    if draft.facts.initrd != initrd:
        yield "the device tree names another place for the initrd than the VMM puts it at: no realm can pass"
