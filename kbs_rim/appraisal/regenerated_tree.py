"""A device tree that the log names and nobody sent: made anew from the workload's definition and held against the digest in the log.

The log says how large the VM is and where things lie, the definition everything else. If the digest is the one that we compute from our
own bytes, they are what the log says was loaded, and are judged like bytes that a guest sends. If not, that is a finding and nothing else:
nothing is ever known under a digest that somebody claims.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product

from kbs_rim.appraisal.definition_rules import GENERATED, STOCK_TREES, Definition, states_of
from kbs_rim.appraisal.derived_boot import stock_tree
from kbs_rim.appraisal.findings import Finding, Severity
from kbs_rim.appraisal.registered_image import ImageSet, ImageState
from kbs_rim.appraisal.supplied_tree import NO_TREE, SuppliedTree, TreeReading, TreeSource, as_loaded, image_of_tree, is_tree
from kbs_rim.errors import InvalidDocument, MalformedEvidence
from kbs_rim.limits import Limits
from kbs_rim.measurement.boot_plan import BootPlan, LoadedImage, VmVersion
from kbs_rim.measurement.device_tree import parse_device_tree
from kbs_rim.measurement.rmm import RealmFlags
from kbs_rim.measurement.vmm.derived_plan import LOGGED_NAMES
from kbs_rim.measurement.vmm.profile import HostParameters, Region, VmRequest
from kbs_rim.measurement.vmm.regeneration import LoggedVm, UnloggedOptions, regenerate_tree
from kbs_rim.measurement.vmm.shipped_profiles import SHIPPED

_SHOWN = 3
_GUESSED_CPUS = 2048
"""CPUs in all trees that one log may cost: whoever sends it need not have proven anything yet, and chooses how many CPUs it names."""


@dataclass(frozen=True, slots=True)
class _Guess:
    """One tree to make."""

    definition: Definition
    profile: str
    tree: str
    its: bool
    bootargs: str | None


def read_regenerated_tree(plan: BootPlan, definitions: Iterable[Definition], registered: ImageSet, limits: Limits) -> TreeReading:
    """Make the tree that ``plan`` loads; at most ``limits.tree_guesses`` are made, and fewer of more than 128 CPUs.

    Neither tree nor finding if there is nothing to make: the tree is revoked, or the log does not say how large the VM is. One that is
    registered, for another workload perhaps, is made like any other, because the rules judge its bytes and the registry has none; that
    it cannot be made is no finding, because the workload that names it needs nothing made.
    """
    wanted = next((image for image in plan.images if is_tree(image)), None)
    if wanted is None or plan.vm is None or wanted.size > limits.device_tree_bytes:
        return NO_TREE
    known = registered.registered(wanted.algorithm, wanted.digest)
    if known is not None and known.state is ImageState.REVOKED:
        return NO_TREE
    firmware = any(image.description.strip().upper() == "FIRMWARE" for image in plan.images)
    vm, computed, problems = _logged_vm(plan, plan.vm), [], []
    most = min(limits.tree_guesses, max(1, _GUESSED_CPUS // max(1, vm.cpus)))
    for guess in list(dict.fromkeys(_guesses(plan.vm, definitions)))[:most]:
        try:
            made = _make(guess, vm, firmware=firmware)
            if (loaded := as_loaded(made, plan, limits)) is not None:
                return _found(loaded, wanted, limits)
        except (InvalidDocument, MalformedEvidence) as problem:
            problems.append(problem.message)
        except ValueError as problem:  # an address of the log that has no room in a tree
            problems.append(str(problem))
        else:
            computed.append(f"{wanted.algorithm.digest(made).hex()}, {len(made)} bytes")
    if known is not None or not (computed or problems):
        return NO_TREE
    tried = len(computed) + len(problems)
    message = f"none of {tried} device trees made from the workload's definition is the one that the log names"
    expected = "; ".join((computed + problems)[:_SHOWN])
    seen = f"{wanted.digest.hex()}, {wanted.size} bytes"
    return TreeReading(findings=(Finding("tree.not-regenerated", message, expected=expected, seen=seen, where={"event": wanted.event}),))


def _guesses(vm: VmVersion, definitions: Iterable[Definition]) -> Iterator[_Guess]:
    for definition in definitions:
        if LOGGED_NAMES[definition.vmm] != vm.name:
            continue
        trees = [tree for tree in definition.device_trees if tree == GENERATED or tree in STOCK_TREES]
        for profile, tree, its, bootargs in product(
            definition.profile_names, trees, states_of(definition.its), definition.bootargs or (None,)
        ):
            yield _Guess(definition, profile, tree, its, bootargs)


def _logged_vm(plan: BootPlan, vm: VmVersion) -> LoggedVm:
    initrd = next((image for image in plan.images if image.description.strip().upper() == "INITRD"), None)
    area = plan.log_area
    return LoggedVm(
        ram_size=vm.ram_size,
        cpus=vm.num_cpus,
        params=plan.create.params,
        initrd=None if initrd is None else Region(initrd.base, initrd.size),
        log_area=None if area is None else Region(area.base, area.size),
    )


def _make(guess: _Guess, vm: LoggedVm, *, firmware: bool) -> bytes:
    given = guess.definition
    ram_max = given.ram_max or None
    if guess.tree == GENERATED:
        options = UnloggedOptions(
            bootargs=guess.bootargs, its=guess.its, ram_max=ram_max, hotplug_slots=given.hotplug_slots, virtio_mmio=given.virtio_mmio
        )
        return regenerate_tree(SHIPPED[guess.profile], vm, options)
    request = VmRequest(
        cpus=vm.cpus,
        ram_size=vm.ram_size,
        boot="none",
        host=HostParameters(),
        bootargs=guess.bootargs,
        its=guess.its,
        pmu=bool(vm.params.flags & RealmFlags.PMU),
        ram_max=ram_max,
        hotplug_slots=given.hotplug_slots,
    )
    return stock_tree(guess.tree, given, request, "firmware" if firmware else "kernel", vm.initrd, vm.log_area)


def _found(loaded: bytes, wanted: LoadedImage, limits: Limits) -> TreeReading:
    tree = parse_device_tree(loaded, limits)
    image = image_of_tree(loaded, tree, limits, "the device tree made from the workload's definition")
    note = Finding(
        "tree.regenerated", f"event {wanted.event} loads the tree that was made from the definition", Severity.NOTE, seen=image.id
    )
    return TreeReading(SuppliedTree(tree, image, TreeSource.DEFINITION), (note,))
