"""Judging a device tree node by node (step 7 of docs/architecture.md): a tree that nobody registered, against a rule pack.

The host writes the tree and the kernel believes it: where RAM is, what devices exist and where, which command line to obey. A
measured tree is therefore not a good tree. Default is deny: nodes, properties and values that the pack of the VMM does not allow are
refused, and so is what no single property shows (addresses that overlap, phandles that repeat, CPUs that are missing).
Pure; no input makes it recurse, and work is linear in the tree.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from kbs_rim.appraisal.address_range import Range
from kbs_rim.appraisal.bootargs import BootargsRules, judge_bootargs
from kbs_rim.appraisal.findings import Finding
from kbs_rim.appraisal.tree_pack import NodeRule, RulePack, parse_rule_pack
from kbs_rim.appraisal.tree_surroundings import Surroundings, Where, judge_surroundings
from kbs_rim.appraisal.tree_values import Claim, Fault, Scope, judge_value
from kbs_rim.appraisal.workload import Bounds
from kbs_rim.errors import MalformedEvidence
from kbs_rim.limits import DEFAULT_LIMITS, Limits
from kbs_rim.measurement.device_tree import DeviceTree, DeviceTreeFacts, Node, facts_of
from kbs_rim.measurement.device_tree_text import value_preview

__all__ = ["MOST_FINDINGS", "RulePack", "Surroundings", "TreeOptions", "judge_tree", "parse_rule_pack"]

MOST_FINDINGS = 32
"""How many faults of one tree are listed: thousands can be forged, and each is stored."""
CPU_LABEL = "cpu"
"""The label that a pack gives to the nodes of CPUs."""
_CONSEQUENCES = {
    "dma-ranges": "devices would reach other memory than the kernel means",
    "linux,elfcorehdr": "the kernel would believe that it rescues a crashed one",
    "linux,ima-kexec-buffer": "the kernel would take over measurements that the host made up",
    "linux,kho-fdt": "the kernel would take over state that the host made up",
    "linux,kho-scratch": "the kernel would take over state that the host made up",
    "linux,phandle": "a second phandle, which some readers prefer",
    "linux,uefi-mmap-start": "the kernel would take the host's word for its memory map",
    "linux,uefi-system-table": "the kernel would run firmware that the host made up",
    "linux,usable-memory": "the kernel would see other RAM than firmware does",
    "linux,usable-memory-range": "the kernel would see other RAM than the realm has",
    "no-map": "the kernel would leave a hole in its memory",
    "reusable": "the kernel would use reserved memory as its own",
    "status": "nodes of a realm's tree are neither switched off nor on",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeOptions:
    """What a workload adds to a pack. ``bootargs`` None: not judged, for showing trees only; ``cpus`` None: any number."""

    bootargs: BootargsRules | None = None
    cpus: Bounds | None = None
    allow_seeds: bool = False


NO_OPTIONS = TreeOptions()
NOTHING_KNOWN = Surroundings()


@dataclass(frozen=True, slots=True)
class _Matched:
    """A node that a pack knows, with its rule."""

    node: Node
    rule: NodeRule
    path: str


def judge_tree(
    tree: DeviceTree,
    pack: RulePack,
    options: TreeOptions = NO_OPTIONS,
    around: Surroundings = NOTHING_KNOWN,
    *,
    limits: Limits = DEFAULT_LIMITS,
    where: Where | None = None,
) -> tuple[Finding, ...]:
    """Return every finding, at most ``MOST_FINDINGS`` and one that says that there are more. None: the tree is as it should be.

    ``where`` is added to the place of each finding, which names node and property.
    """
    judging = _Judging(tree, pack, options, around, limits, dict(where or {}))
    found = list(islice(judging.findings(), MOST_FINDINGS + 1))
    if len(found) > MOST_FINDINGS:
        found[MOST_FINDINGS:] = [Finding("tree.more", f"more than {MOST_FINDINGS} faults", where=judging.where)]
    return tuple(found)


@dataclass(slots=True)
class _Judging:
    """One tree under judgement."""

    tree: DeviceTree
    pack: RulePack
    options: TreeOptions
    around: Surroundings
    limits: Limits
    where: dict[str, str | int]
    matched: list[_Matched] = field(default_factory=list)

    def findings(self) -> Iterator[Finding]:
        """Yield everything that is wrong, nodes first."""
        yield from self._match()
        scope = self._scope()
        yield from self._judge_phandles()
        for item in self.matched:
            scope.path, scope.name, scope.named_by_address = item.path, item.node.name, item.rule.path.endswith("<hex>")
            yield from self._judge_properties(item, scope)
        yield from self._judge_addresses(scope)
        yield from self._judge_cpus()
        yield from self._judge_header()
        yield from self._judge_facts(scope)

    def _finding(self, id_: str, message: str, path: str, name: str | None = None, *, expected: str | None = None, seen: str) -> Finding:
        place = f"{path} {name}" if name else path
        where = {**self.where, "node": path, **({"property": name} if name else {})}
        return Finding(id_, f"{place}: {message}", expected=expected, seen=seen, where=where)

    # --- nodes --------------------------------------------------------------------------------------------------------

    def _match(self) -> Iterator[Finding]:
        """Walk the tree and the pack side by side. What lies below an unknown node is not looked at."""
        pending = [_Matched(self.tree.root, self.pack.root, "/")]
        while pending:
            item = pending.pop()
            self.matched.append(item)
            counts: Counter[str] = Counter()
            below = []
            for node in item.node.children:
                path = f"{item.path.rstrip('/')}/{node.name}"
                rule = item.rule.child(node.name)
                if rule is None:
                    yield self._finding("tree.unknown-node", f"{self.pack.name} has no such node", path, seen=node.name)
                    continue
                counts[rule.path] += 1
                below.append(_Matched(node, rule, path))
            pending.extend(reversed(below))
            yield from self._judge_counts(item, counts)

    def _judge_counts(self, parent: _Matched, counts: Counter[str]) -> Iterator[Finding]:
        for rule in parent.rule.children:
            seen = counts[rule.path]
            if not rule.least <= seen <= rule.most:
                message = f"there are {seen} nodes {rule.path}" if seen else f"there is no node {rule.path}"
                expected = str(rule.least) if rule.least == rule.most else f"{rule.least} to {rule.most}"
                yield self._finding("tree.node-count", message, parent.path, expected=expected, seen=str(seen))

    def _scope(self) -> Scope:
        paths: dict[str, set[str]] = {}
        phandles: dict[str, set[int]] = {}
        for item in self.matched:
            if item.rule.label is not None:
                paths.setdefault(item.rule.label, set()).add(item.path)
                value = item.node.properties.get("phandle")
                if value is not None and len(value) == 4:
                    phandles.setdefault(item.rule.label, set()).add(int.from_bytes(value, "big"))
        return Scope(
            cpus=len(self._cpus()),
            limits=self.limits,
            allow_seeds=self.options.allow_seeds,
            paths={label: frozenset(found) for label, found in paths.items()},
            phandles={label: frozenset(found) for label, found in phandles.items()},
        )

    def _judge_phandles(self) -> Iterator[Finding]:
        owners: dict[bytes, str] = {}
        for item in self.matched:
            value = item.node.properties.get("phandle")
            if value is None:
                continue
            if value in owners:
                message = f"{owners[value]} has the same phandle"
                yield self._finding(
                    "tree.phandle", message, item.path, "phandle", expected="a phandle of its own", seen=value_preview(value)
                )
            owners.setdefault(value, item.path)

    # --- properties ---------------------------------------------------------------------------------------------------

    def _judge_properties(self, item: _Matched, scope: Scope) -> Iterator[Finding]:
        properties = item.node.properties
        for name, value in properties.items():
            rule = item.rule.must.get(name) or item.rule.may.get(name)
            if rule is None:
                reason = _CONSEQUENCES.get(name, f"{self.pack.name} has no such property here")
                yield self._finding("tree.unknown-property", reason, item.path, name, seen=value_preview(value))
                continue
            for fault in judge_value(rule, value, scope):
                yield self._fault(fault, item.path, name)
        for name in item.rule.must:
            if name not in properties:
                yield self._finding("tree.missing-property", "the property is missing", item.path, name, expected=name, seen="absent")

    def _fault(self, fault: Fault, path: str, name: str) -> Finding:
        return self._finding(fault.id, fault.message, path, name, expected=fault.expected, seen=fault.seen)

    # --- what no single property shows --------------------------------------------------------------------------------

    def _judge_addresses(self, scope: Scope) -> Iterator[Finding]:
        """No device lies in RAM or on another one, and no RAM is there twice."""
        claims = sorted((*scope.claims, *scope.ram), key=lambda claim: claim.range.base)
        widest: Claim | None = None
        for claim in claims:
            if widest is not None and claim.range.meets(widest.range):
                message = f"{claim.what} and {widest.what} lie at the same addresses"
                seen = f"{claim.range} and {widest.range}"
                yield self._finding("tree.overlap", message, claim.what.partition(" ")[0], expected="disjoint ranges", seen=seen)
            if widest is None or claim.range.top > widest.range.top:
                widest = claim

    def _cpus(self) -> list[_Matched]:
        return [item for item in self.matched if item.rule.label == CPU_LABEL]

    def _judge_cpus(self) -> Iterator[Finding]:
        """CPUs are numbered from 0 without gaps, no two answer to one number, and there are as many as the workload says."""
        cpus = self._cpus()
        names = {item.node.name for item in cpus}
        if missing := [number for number in range(len(cpus)) if f"cpu@{number}" not in names]:
            expected = f"cpu@0 to cpu@{len(cpus) - 1}"
            yield self._finding(
                "tree.cpus", "the CPUs are not numbered one by one", "/cpus", expected=expected, seen=f"no cpu@{missing[0]}"
            )
        numbers = Counter(item.node.properties.get("reg", b"") for item in cpus)
        if twice := next((number for number, count in numbers.items() if count > 1), None):
            yield self._finding("tree.cpus", "two CPUs have one number", "/cpus", "reg", seen=value_preview(twice))
        allowed = self.options.cpus
        if allowed is not None and len(cpus) not in allowed:
            yield self._finding("tree.cpus", "the number of CPUs is not allowed", "/cpus", expected=allowed.shown, seen=str(len(cpus)))

    def _judge_header(self) -> Iterator[Finding]:
        """The reservation block is older than /reserved-memory and unknown to the pack, so it must be empty."""
        for base, size in islice(self.tree.reservations, MOST_FINDINGS):
            seen = str(Range.sized(base, size))
            yield self._finding("tree.reserved", "the reservation block reserves memory", "/", expected="no reservation", seen=seen)
        if self.tree.boot_cpu:
            yield self._finding("tree.cpus", "the boot CPU is not the first", "/", expected="0", seen=str(self.tree.boot_cpu))

    def _judge_facts(self, scope: Scope) -> Iterator[Finding]:
        """What the tree says of the VM: boot arguments, the event log inside RAM, and what is known from elsewhere."""
        try:
            facts = facts_of(self.tree, limits=self.limits)
        except MalformedEvidence as error:
            yield Finding.from_error(error, **self.where)
            return
        if self.options.bootargs is not None:
            for objection in judge_bootargs(facts.bootargs or "", self.options.bootargs):
                expected, seen = objection.expected, objection.seen
                yield self._finding("tree.bootargs", objection.message, "/chosen", "bootargs", expected=expected, seen=seen)
        yield from self._judge_log_area(facts, scope)
        yield from judge_surroundings(facts, self.around, self.where)

    def _judge_log_area(self, facts: DeviceTreeFacts, scope: Scope) -> Iterator[Finding]:
        if facts.log_area is None:
            return
        area = Range.sized(*facts.log_area)
        if not any(claim.range.holds(area) for claim in scope.ram):
            expected = ", ".join(str(claim.range) for claim in scope.ram[:4]) or "RAM"
            yield self._finding("tree.log-area", "the event log lies outside RAM", "/reserved-memory", expected=expected, seen=str(area))
