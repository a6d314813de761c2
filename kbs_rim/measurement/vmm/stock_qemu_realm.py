"""A realm whose device tree is the one that QEMU makes itself, because no ``-dtb`` stands in its command line.

Two readers of one command line meet here: what is measured comes from ``qemu_arguments``, what stands in the tree from
``stock_qemu_arguments``. Where they would place something differently, nothing is measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kbs_rim.measurement.vmm.definition import VmDefinition, refuse_argument
from kbs_rim.measurement.vmm.memory_map import MemoryMap, lay_out
from kbs_rim.measurement.vmm.profile import VmRequest, refuse
from kbs_rim.measurement.vmm.request import EffectiveHost
from kbs_rim.measurement.vmm.stock_qemu import stock_qemu_tree
from kbs_rim.measurement.vmm.stock_qemu_arguments import StockArguments, read_stock_arguments
from kbs_rim.measurement.vmm.stock_qemu_definition import BootFiles, HostFacts, stock_machine
from kbs_rim.measurement.vmm.stock_qemu_profile import CpuCaches, QemuVersion
from kbs_rim.measurement.vmm.stock_qemu_request import Seeds, StockQemu
from kbs_rim.measurement.vmm.vmm_profile import VmmProfile


@dataclass(frozen=True, slots=True, kw_only=True)
class StockChoice:
    """Which QEMU makes the tree, and what nothing else says of its host: None is what is not known.

    ``address_bits`` are those of guest addresses; unless told, one less than the host's IPA bits, because a realm's upper half is
    unprotected.
    """

    version: QemuVersion
    seeds: Seeds | None = None
    address_bits: int | None = None
    caches: CpuCaches | None = None


def read_stock_realm(arguments: Sequence[str], definition: VmDefinition) -> tuple[StockArguments, VmDefinition]:
    """Read the arguments for the tree as well, and return the definition with what both readers say of them.

    Raises ``InvalidDocument`` (``document.vm-arguments``) for an option whose part in the tree is not known, ``-dtb`` among them.
    """
    if definition.tree_given:
        raise refuse_argument("-dtb", "QEMU loads the tree in this file and makes none: leave out --qemu-version, or -dtb")
    read = read_stock_arguments(arguments)
    both = tuple(name for name in definition.ignored if name in read.ignored)
    remarks = tuple(dict.fromkeys((*definition.remarks, *read.remarks)))
    return read, replace(definition, ignored=both, tree_changes=(), remarks=remarks)


def stock_realm_tree(read: StockArguments, profile: VmmProfile, request: VmRequest, host: EffectiveHost, choice: StockChoice) -> bytes:
    """Return the 1 MiB that QEMU loads for this realm.

    Raises ``InvalidDocument``: ``document.vm-arguments`` for what QEMU would refuse, ``document.vm`` for a machine that cannot be, and
    for a profile that places things elsewhere than QEMU says in its tree.
    """
    # A realm runs on KVM, and what the host gives it is settled already.
    read = replace(read, realm=True, kvm=True, pmu=request.pmu)
    bits = choice.address_bits
    if bits is None and host.capabilities.ipa_bits is not None:
        bits = host.capabilities.ipa_bits - 1
    files = BootFiles(kernel=request.kernel_header, initrd_size=request.initrd_size)
    machine = stock_machine(read, choice.version, files, HostFacts(address_bits=bits, caches=choice.caches), choice.seeds)
    _check_agreement(machine, request, lay_out(profile, request))
    return stock_qemu_tree(machine)


def _check_agreement(machine: StockQemu, request: VmRequest, memory: MemoryMap) -> None:
    shape = machine.topology
    initrd = memory.things.get("initrd") if request.boot == "kernel" else None
    for what, tree, vm in (
        ("RAM", machine.ram_size, request.ram_size),
        ("maxmem", machine.largest_ram, request.ram_max or request.ram_size),
        ("slots", machine.ram_slots, request.hotplug_slots),
        ("CPUs", shape.cpus, request.cpus),
        ("the interrupt controller", machine.gic, 3),
        ("what is started", machine.boot, request.boot),
        ("the command line", machine.bootargs, request.bootargs),
        ("the initrd", machine.initrd, initrd),
        ("the log", machine.log_area, memory.things.get("log")),
    ):
        if tree != vm:
            raise refuse(f"{what} is not the same in QEMU's tree as in what is measured: {tree} and {vm}")
