"""Step 6 and 7: the boot plan and its device tree, held against a workload.

A matching RIM proves that the log told the truth. It does not prove that the truth is innocent: a hostile host can load
trusted images at the wrong place, start in the middle of one, leave pages unmeasured, or add a second vCPU, and log all of
it honestly (docs/security.md). Each rule below names the attack that it stops. Every rule runs and reports on its
own, so that one appraisal shows everything that is wrong.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kbs_rim.appraisal.address_range import Range, joined
from kbs_rim.appraisal.findings import Finding, Severity
from kbs_rim.appraisal.registered_image import ImageState, RegisteredImage
from kbs_rim.appraisal.tree_surroundings import judge_initrd, judge_memory
from kbs_rim.appraisal.workload import ImageRule, ParameterRules, Role, Workload
from kbs_rim.limits import GRANULE_SIZE
from kbs_rim.measurement.boot_plan import BootPlan, LoadedImage, RecRecord
from kbs_rim.measurement.device_tree import DeviceTreeFacts
from kbs_rim.measurement.dialect import Dialect
from kbs_rim.measurement.rmm import RealmCreate, RealmFlags

KERNEL_ALIGNMENT = 2 * 1024 * 1024
"""arm64 boot protocol: the Image lies ``text_offset`` bytes above a 2 MiB boundary."""
LEGACY_TEXT_OFFSET = 0x80000
"""Where VMMs put a kernel whose header has no ``image_size`` (before Linux 3.17): then ``text_offset`` means nothing."""
_ALIGNMENT = {Role.FIRMWARE: GRANULE_SIZE, Role.DEVICE_TREE: 8}
"""Firmware computes addresses by page and offset, so it runs at page boundaries only."""
_RECS_JUDGED = 8
"""Runnable vCPUs that are looked at one by one; more than one is refused anyway, and each could leave five findings."""
_TREES_SHOWN = 3
_KNOWN_FLAGS = RealmFlags.LPA2 | RealmFlags.SVE | RealmFlags.PMU | RealmFlags.DA | RealmFlags.MEC_PRIVATE
_CLAIMED_ROLES = {"KERNEL": Role.KERNEL, "INITRD": Role.INITRD, "FIRMWARE": Role.FIRMWARE, "DTB": Role.DEVICE_TREE}


@dataclass(frozen=True, slots=True)
class Placed:
    """An image of the plan with the role it plays under the workload."""

    loaded: LoadedImage
    image: RegisteredImage
    role: Role

    @property
    def range(self) -> Range:
        """Where its bytes lie."""
        return Range(self.loaded.base, self.loaded.base + self.loaded.size)

    @property
    def where(self) -> dict[str, str | int]:
        """Location for a finding."""
        return {"event": self.loaded.event, "image": self.image.id, "role": self.role.value, "address": hex(self.loaded.base)}


def judge_boot_plan(
    plan: BootPlan,
    images: Mapping[int, RegisteredImage],
    workload: Workload,
    dialect: Dialect | None,
    *,
    params: RealmCreate | None = None,
    judged_tree: str | None = None,
) -> tuple[Finding, ...]:
    """Return every finding of steps 6 and 7.

    ``images`` maps event numbers of the plan's image records to what the registry knows them as; ``dialect`` and ``params`` are those
    that matched the RIM, None if none did (then page rounding is taken as 4 KiB, and the parameters as logged). ``judged_tree`` is the
    id of an image that may be the device tree although the workload does not list it: the module of that name judges its content.
    """
    return (*_findings(plan, images, workload, dialect, judged_tree), *_judge_parameters(params or plan.create.params, workload.parameters))


def _findings(
    plan: BootPlan, images: Mapping[int, RegisteredImage], workload: Workload, dialect: Dialect | None, judged_tree: str | None
) -> Iterator[Finding]:
    placed, role_findings = _place(plan, images, workload, judged_tree)
    yield from role_findings
    by_role = {item.role: item for item in placed}
    tree = by_role[Role.DEVICE_TREE].image.measurements.device_tree if Role.DEVICE_TREE in by_role else None
    ram = _ram_of(plan, tree)
    page = dialect.rounding.value if dialect else GRANULE_SIZE
    yield from _judge_vmm(plan, workload)
    yield from _judge_hash(plan, workload)
    yield from _judge_ram(ram, workload)
    yield from _judge_places(placed, workload, ram)
    yield from _judge_tree_place(by_role.get(Role.DEVICE_TREE), workload, ram)
    yield from _judge_overlaps(plan, page)
    yield from _judge_kernel(by_role.get(Role.KERNEL), plan, ram)
    yield from _judge_log_area(plan, tree, ram)
    unknown = _unknown_trees(plan, images)
    yield from _judge_recs(plan, by_role, workload, unknown)
    yield from _judge_tree(by_role, tree, ram, plan, workload, unknown)


# --- images and roles -------------------------------------------------------------------------------------------------


def _place(
    plan: BootPlan, images: Mapping[int, RegisteredImage], workload: Workload, judged_tree: str | None
) -> tuple[list[Placed], list[Finding]]:
    """Give each image its role. The log's description only breaks a tie: nobody measured it."""
    placed: list[Placed] = []
    findings: list[Finding] = []
    for loaded in plan.images:
        image = images.get(loaded.event)
        if image is None:
            continue  # rim.image-unknown says so already
        roles = [role for role in workload.roles_of(image.id) if role in image.roles]
        if not roles and image.id == judged_tree:
            roles = [Role.DEVICE_TREE]
        claimed = _claimed_role(loaded)
        where: dict[str, str | int] = {"event": loaded.event, "image": image.id, "address": hex(loaded.base)}
        if not roles:
            findings.append(_unexpected(image, claimed, workload, where))
            continue
        role = claimed if claimed in roles else roles[0]
        if any(item.role is role for item in placed):
            findings.append(Finding("boot.role-repeated", f"a second {role.value} was loaded", seen=image.name, where=where))
        if image.state is ImageState.DEPRECATED:
            message = f"{role.value} {image.name} is deprecated"
            findings.append(Finding("boot.image-deprecated", message, Severity.WARNING, where=where))
        placed.append(Placed(loaded, image, role))
    present = {item.role for item in placed}
    for rule in workload.images:
        if rule.required and rule.role not in present:
            message = f"the workload requires one of its {rule.role.value} images and none was loaded"
            findings.append(Finding("boot.role-missing", message, expected=_names(rule), where={"role": rule.role.value}))
    return placed, findings


def _unknown_trees(plan: BootPlan, images: Mapping[int, RegisteredImage]) -> tuple[LoadedImage, ...]:
    """Return what the log calls a device tree and nobody knows. A claim: it words findings and never stands for a tree that was judged."""
    unknown = (loaded for loaded in plan.images if loaded.event not in images)
    return tuple(loaded for loaded in unknown if _claimed_role(loaded) is Role.DEVICE_TREE)


def _claimed_role(loaded: LoadedImage) -> Role | None:
    return _CLAIMED_ROLES.get(loaded.description.strip().upper())


def _unexpected(image: RegisteredImage, claimed: Role | None, workload: Workload, where: dict[str, str | int]) -> Finding:
    rule = workload.rule_for(claimed) if claimed else None
    return Finding(
        "boot.role-unexpected",
        f"image {image.name} is trusted, but not for workload {workload.name}",
        expected=_names(rule) if rule else "no such image",
        seen=image.id,
        where=where,
    )


def _names(rule: ImageRule) -> str:
    shown = ", ".join(rule.images[:3])
    return shown if len(rule.images) <= 3 else f"{shown} and {len(rule.images) - 3} more"


def _judge_places(placed: list[Placed], workload: Workload, ram: Range | None) -> Iterator[Finding]:
    """An image lies where its role may: in RAM, and in the workload's windows if it names some.

    Only firmware may lie outside RAM, if a window says so, and then wholly (QEMU's flash). An initrd out there would be dropped
    by Linux, which boots on without it.
    """
    for item in placed:
        rule = workload.rule_for(item.role)
        windows = rule.addresses if rule else ()
        if windows and not any(item.loaded.base in window for window in windows):
            allowed = ", ".join(f"{window.min:#x}-{window.max:#x}" for window in windows)
            message = f"the {item.role.value} lies at an address the workload does not allow"
            yield Finding("boot.address", message, expected=allowed, seen=hex(item.loaded.base), where=item.where)
        flash = bool(windows) and item.role is Role.FIRMWARE
        if ram is not None and not ram.holds(item.range) and (ram.meets(item.range) or not flash):
            message = f"the {item.role.value} lies outside RAM"
            yield Finding("boot.outside-ram", message, expected=str(ram), seen=str(item.range), where=item.where)
        alignment = _ALIGNMENT.get(item.role, 1)
        if item.loaded.base % alignment:
            message = f"the {item.role.value} is not at a multiple of {alignment} bytes"
            yield Finding("boot.alignment", message, seen=hex(item.loaded.base), where=item.where)


def _judge_tree_place(tree: Placed | None, workload: Workload, ram: Range | None) -> Iterator[Finding]:
    """Firmware that gets no x0 looks for the tree at the start of RAM; the tree must lie there, or in the workload's window."""
    rule = workload.rule_for(Role.DEVICE_TREE)
    if tree is None or ram is None or workload.entry.x0 != "zero" or (rule and rule.addresses):
        return
    if tree.loaded.base != ram.base:
        message = "x0 names no device tree, and the measured one is not at the start of RAM where firmware looks"
        yield Finding("boot.address", message, expected=hex(ram.base), seen=hex(tree.loaded.base), where=tree.where)


def _judge_overlaps(plan: BootPlan, page: int) -> Iterator[Finding]:
    """No two populated ranges share a page: a later one would hide or replace the earlier one."""
    ranges = [(Range(image.base, image.base + image.size).rounded(page), image.event) for image in plan.images]
    if plan.log_area is not None:
        ranges.append((Range(plan.log_area.base, plan.log_area.base + plan.log_area.size), plan.log_area.event))
    ranges.sort(key=lambda item: item[0].base)
    widest = None
    for current in ranges:
        if widest is not None and current[0].base < widest[0].top:
            message = f"events {widest[1]} and {current[1]} populate the same memory"
            where: dict[str, str | int] = {"event": current[1], "address": hex(current[0].base)}
            yield Finding("boot.overlap", message, expected="disjoint ranges", seen=f"{widest[0]} and {current[0]}", where=where)
        if widest is None or current[0].top > widest[0].top:
            widest = current


def _judge_kernel(kernel: Placed | None, plan: BootPlan, ram: Range | None) -> Iterator[Finding]:
    """A kernel obeys the arm64 boot protocol, and its BSS runs into nothing."""
    if kernel is None:
        return
    header = kernel.image.measurements.kernel
    if header is None:
        yield Finding("boot.kernel-header", "the kernel has no arm64 Image header", seen=kernel.image.name, where=kernel.where)
        return
    offsets = {header.text_offset} if header.image_size else {header.text_offset, LEGACY_TEXT_OFFSET}
    if all((kernel.loaded.base - offset) % KERNEL_ALIGNMENT for offset in offsets):
        message = "the kernel is not at its text_offset above a 2 MiB boundary"
        seen = f"{kernel.loaded.base:#x} with text_offset {header.text_offset:#x}"
        yield Finding("boot.alignment", message, seen=seen, where=kernel.where)
    memory = Range(kernel.loaded.base, kernel.loaded.base + max(header.image_size, kernel.loaded.size))
    if ram is not None and not ram.holds(memory):
        message = "the kernel's memory reaches beyond RAM"
        yield Finding("boot.kernel-header", message, expected=str(ram), seen=str(memory), where=kernel.where)
    others = [(image.event, Range(image.base, image.top)) for image in plan.images if image.event != kernel.loaded.event]
    if plan.log_area is not None:
        others.append((plan.log_area.event, Range(plan.log_area.base, plan.log_area.base + plan.log_area.size)))
    for event, other in others:
        if memory.meets(other):
            message = f"the kernel's memory reaches into what event {event} populated"
            yield Finding("boot.kernel-header", message, seen=f"{memory} and {other.base:#x}", where=kernel.where)


# --- realm parameters and memory --------------------------------------------------------------------------------------


def _judge_vmm(plan: BootPlan, workload: Workload) -> Iterator[Finding]:
    if not workload.vmm:
        return
    name = plan.vm.name if plan.vm else None
    if name not in workload.vmm:
        yield Finding("boot.vmm", "the VMM is not one the workload allows", expected=", ".join(workload.vmm), seen=name or "not logged")


def _judge_hash(plan: BootPlan, workload: Workload) -> Iterator[Finding]:
    allowed = workload.rmm.hash_algorithms
    if plan.hash_algorithm not in allowed:
        message = "the realm's hash algorithm is not allowed"
        expected = ", ".join(algorithm.value for algorithm in allowed)
        yield Finding("boot.hash-algorithm", message, expected=expected, seen=plan.hash_algorithm.value)


def _judge_parameters(params: RealmCreate, rules: ParameterRules) -> Iterator[Finding]:
    """Every feature is off unless allowed; every count is inside its bounds (real counts, not RMI encodings)."""
    flags = params.flags
    if unknown := flags & ~int(_KNOWN_FLAGS):
        yield Finding("boot.flags", "the realm has feature flags we do not know", expected="0", seen=hex(unknown))
    allowed = {
        RealmFlags.LPA2: rules.lpa2,
        RealmFlags.SVE: rules.sve,
        RealmFlags.PMU: rules.pmu,
        RealmFlags.DA: rules.device_assignment,
    }
    for flag, is_allowed in allowed.items():
        if flags & flag and not is_allowed:
            yield Finding("boot.flags", f"the realm has {flag.name} on", expected="off", seen="on", where={"flag": str(flag.name)})
    checks = [
        ("ipa_bits", params.s2sz, rules.ipa_bits, True),
        ("breakpoints", params.num_bps + 1, rules.breakpoints, True),
        ("watchpoints", params.num_wps + 1, rules.watchpoints, True),
        ("sve_vector_bits", (params.sve_vl + 1) * 128, rules.sve_vector_bits, bool(flags & RealmFlags.SVE)),
        ("pmu_counters", params.pmu_num_ctrs, rules.pmu_counters, bool(flags & RealmFlags.PMU)),
    ]
    for name, value, bounds, applies in checks:
        if applies and value not in bounds:
            where: dict[str, str | int] = {"parameter": name}
            yield Finding("boot.parameters", f"{name} is out of bounds", expected=bounds.shown, seen=str(value), where=where)


def _ram_of(plan: BootPlan, tree: DeviceTreeFacts | None) -> Range | None:
    """RAM as logged; where the kernel sets RIPAS and nothing is logged (RMM 2.0), as the measured device tree says."""
    found = joined((record.base, record.size) for record in plan.ripas) if plan.ripas else joined(tree.memory if tree else ())
    return found[0] if len(found) == 1 else None


def _judge_ram(ram: Range | None, workload: Workload) -> Iterator[Finding]:
    rules = workload.memory
    size = f"{rules.size.min:#x}" if rules.size.exact else f"{rules.size.min:#x} to {rules.size.max:#x}"
    expected = f"one range from {rules.base:#x}, {size} bytes"
    if ram is None:
        yield Finding("boot.ram", "the log does not give RAM as one range", expected=expected)
    elif ram.base != rules.base or ram.top - ram.base not in rules.size:
        yield Finding("boot.ram", "the RAM is not what the workload allows", expected=expected, seen=str(ram))


# --- log area and vCPUs -----------------------------------------------------------------------------------------------


def _judge_log_area(plan: BootPlan, tree: DeviceTreeFacts | None, ram: Range | None) -> Iterator[Finding]:
    """The log is the only memory that the host may fill unmeasured: inside RAM, reserved, never executed, never parsed."""
    if plan.log_area is None:
        return
    area = Range(plan.log_area.base, plan.log_area.base + plan.log_area.size)
    where: dict[str, str | int] = {"event": plan.log_area.event, "address": hex(area.base)}
    if ram is not None and not ram.holds(area):
        yield Finding("boot.outside-ram", "the log area lies outside RAM", expected=str(ram), seen=str(area), where=where)
    if tree is not None and tree.log_area != (area.base, area.top - area.base):
        expected = f"{tree.log_area[0]:#x}-{sum(tree.log_area):#x}" if tree.log_area else "no log area"
        message = "the device tree does not reserve the log area"
        yield Finding("boot.log-reserved", message, expected=expected, seen=str(area), where=where)
    for record in _runnable(plan)[:_RECS_JUDGED]:
        for name, value in (("pc", record.rec.pc), ("x0", record.rec.gprs[0])):
            if value in area:
                message = f"{name} points into the log area, which the host wrote"
                yield Finding("boot.log-area", message, seen=hex(value), where={"event": record.event, "register": name})


def _runnable(plan: BootPlan) -> tuple[RecRecord, ...]:
    return tuple(record for record in plan.recs if record.rec.runnable)


def _judge_recs(plan: BootPlan, by_role: Mapping[Role, Placed], workload: Workload, unknown: tuple[LoadedImage, ...]) -> Iterator[Finding]:
    """Exactly one runnable vCPU, which starts at the start of the right image with the registers of the boot protocol."""
    runnable = _runnable(plan)
    if len(runnable) != 1:
        yield Finding("boot.rec-count", "not exactly one vCPU is runnable at boot", expected="1", seen=str(len(runnable)))
    entry = by_role.get(workload.entry.role)
    for record in runnable[:_RECS_JUDGED]:
        rec, where = record.rec, {"event": record.event}
        if rec.flags != 1:
            yield Finding("boot.rec-flags", "the REC has unknown flags", expected="0x1", seen=hex(rec.flags), where=where)
        if entry is not None and rec.pc != entry.loaded.base:
            message = f"the vCPU does not start at the entry point of the {entry.role.value}"
            yield Finding("boot.entry-point", message, expected=hex(entry.loaded.base), seen=hex(rec.pc), where=where)
        placed = by_role.get(Role.DEVICE_TREE)
        trees = unknown if placed is None else (placed.loaded,)
        yield from _judge_registers(rec.gprs, trees, workload, where)


def _judge_registers(
    gprs: tuple[int, ...], trees: tuple[LoadedImage, ...], workload: Workload, where: Mapping[str, str | int]
) -> Iterator[Finding]:
    """x0 is zero or a tree; one that nobody knows only keeps this rule from saying what is untrue, and is a finding of its own."""
    good = [0] if workload.entry.x0 == "zero" else [tree.base for tree in trees]
    if gprs[0] not in good:
        shown = " or ".join(map(hex, good[:_TREES_SHOWN])) or "the measured device tree"
        yield Finding("boot.x0", "x0 is not what the boot protocol says", expected=shown, seen=hex(gprs[0]), where=where)
    if any(gprs[1:]):
        seen = ", ".join(f"x{number}={value:#x}" for number, value in enumerate(gprs) if number and value)
        yield Finding("boot.gprs", "x1 to x7 are not zero", expected="0", seen=seen, where=where)


# --- device tree: what it says must be true of this VM, whoever vouches for its bytes ----------------------------------


def _judge_tree(
    by_role: Mapping[Role, Placed],
    tree: DeviceTreeFacts | None,
    ram: Range | None,
    plan: BootPlan,
    workload: Workload,
    unknown: tuple[LoadedImage, ...],
) -> Iterator[Finding]:
    """RAM and initrd are where the tree says, and the log area is no initrd."""
    placed = by_role.get(Role.DEVICE_TREE)
    if placed is None:
        yield _no_tree(unknown)
        return
    if tree is None:
        yield Finding("tree.malformed", "the image registered as device tree is none", seen=placed.image.name, where=placed.where)
        return
    if ram is not None:
        yield from judge_memory(tree, (ram,), placed.where)
    initrd = by_role.get(Role.INITRD)
    # Firmware does not read the initrd's properties: it gets its initrd elsewhere and measures it at run time. But it may hand the
    # tree on to a kernel that does, so the range must not be memory that the host wrote.
    area = plan.log_area
    hostile = area is not None and tree.initrd is not None and Range(*tree.initrd).meets(Range.sized(area.base, area.size))
    harmless = workload.entry.role is Role.FIRMWARE and initrd is None and not hostile
    loaded = () if initrd is None else (initrd.range,)
    yield from judge_initrd(tree, loaded, placed.where, Severity.WARNING if harmless else Severity.ERROR)


def _no_tree(unknown: tuple[LoadedImage, ...]) -> Finding:
    where: dict[str, str | int] = {"role": Role.DEVICE_TREE.value}
    if not unknown:
        return Finding("tree.missing", "no measured device tree was loaded", where=where)
    first = unknown[0]
    message = f"the device tree that event {first.event} names is not known, so nothing of it could be judged"
    where |= {"event": first.event, "address": hex(first.base)}
    expected = "a registered tree, or the bytes of this one"
    return Finding("tree.missing", message, expected=expected, seen=f"{first.digest.hex()}, {first.size} bytes", where=where)
