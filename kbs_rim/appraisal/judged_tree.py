"""Step 7 for workloads that judge device trees by rules: from the workload's table and the supplied bytes to findings."""

from collections.abc import Iterator, Mapping
from typing import Any

from kbs_rim.appraisal.address_range import Range
from kbs_rim.appraisal.findings import Finding
from kbs_rim.appraisal.registered_image import RegisteredImage
from kbs_rim.appraisal.supplied_tree import SuppliedTree, TreeReading
from kbs_rim.appraisal.tree_pack import RulePack
from kbs_rim.appraisal.tree_rules import Surroundings, TreeOptions, judge_tree
from kbs_rim.appraisal.workload import Role, Workload
from kbs_rim.limits import Limits
from kbs_rim.measurement.boot_plan import BootPlan

Packs = Mapping[str, RulePack]


def tree_to_judge(workload: Workload, images: Mapping[int, RegisteredImage], reading: TreeReading) -> SuppliedTree | None:
    """Return the supplied tree if this workload must judge it: it has rules, and the tree is none that its ``images`` list."""
    supplied = reading.supplied
    if supplied is None or not workload.device_tree.judges or Role.DEVICE_TREE in workload.roles_of(supplied.image.id):
        return None
    return supplied if any(image.id == supplied.image.id for image in images.values()) else None


def judge_device_tree(
    plan: BootPlan,
    images: Mapping[int, RegisteredImage],
    workload: Workload,
    reading: TreeReading,
    packs: Packs,
    limits: Limits,
) -> Iterator[Finding]:
    """Yield what the workload's rules say of the tree; nothing if one of its registered trees was loaded, or it has no rules.

    RAM and initrd are judged with the boot plan, for registered trees too.
    """
    rules = workload.device_tree
    if not rules.judges:
        return
    supplied = tree_to_judge(workload, images, reading)
    if supplied is None and any(Role.DEVICE_TREE in workload.roles_of(image.id) for image in images.values()):
        return
    yield from reading.findings
    if supplied is None:
        if not reading.findings:
            message = "the workload judges the device tree by rules, and its bytes did not come with the evidence"
            yield Finding("tree.not-supplied", message, expected="the tree in the log or in the envelope", seen="none")
        return
    pack = packs.get(rules.pack)
    if pack is None:
        known = ", ".join(sorted(packs)) or "no rule pack"
        yield Finding("tree.rules-unknown", f"this broker has no rule pack {rules.pack}", expected=known, seen=rules.pack)
        return
    options = TreeOptions(bootargs=rules.bootargs, cpus=rules.cpus, allow_seeds=rules.allow_seeds)
    event = next(event for event, image in images.items() if image.id == supplied.image.id)
    where: dict[str, str | int] = {"event": event, "image": supplied.image.id}
    yield from judge_tree(supplied.tree, pack, options, _around(plan), limits=limits, where=where)


def tree_facts(workload: Workload, images: Mapping[int, RegisteredImage], reading: TreeReading, packs: Packs) -> dict[str, Any] | None:
    """Return what the record says of a tree that was judged: which, by which version of which pack, with which command line."""
    supplied, pack = tree_to_judge(workload, images, reading), packs.get(workload.device_tree.pack)
    if supplied is None or pack is None:
        return None
    facts = supplied.image.measurements.device_tree
    return {
        "image": supplied.image.id,
        "source": supplied.source.value,
        "rules": {"name": pack.name, "version": pack.version, "digest": pack.digest},
        "bootargs": facts.bootargs if facts else None,
        "cpus": facts.cpus if facts else None,
    }


def _around(plan: BootPlan) -> Surroundings:
    """The log area is compared with the tree where the log names one; where it names none, the tree must have none either."""
    area = plan.log_area
    return Surroundings(log_area=()) if area is None else Surroundings(log_area=(Range.sized(area.base, area.size),))
