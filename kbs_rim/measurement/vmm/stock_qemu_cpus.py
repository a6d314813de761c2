"""/cpus of QEMU's own tree: the CPUs from the last to the first, and cpu-map."""

from kbs_rim.measurement.device_tree_writer import cells, text
from kbs_rim.measurement.vmm.stock_qemu_construction import Construction
from kbs_rim.measurement.vmm.stock_qemu_profile import CpuCaches
from kbs_rim.measurement.vmm.stock_qemu_request import Topology, cpu_numa_node

_CLUSTER_CPUS = 16
"""CPUs whose affinity differs in its lowest level only: as many as GICv3 can send one interrupt to at once."""


def add_cpus(build: Construction) -> None:
    """Make /cpus with everything in it."""
    build.node("/cpus", [("#address-cells", cells(1)), ("#size-cells", cells(0))])
    numbers = range(build.machine.topology.cpus)
    for number in reversed(numbers):
        _add_cpu(build, number)
    build.tree.add("/cpus/cpu-map")
    for number in reversed(numbers):
        build.node(_map_path(build.machine.topology, number), [("cpu", cells(build.cpus[number]))])


def _add_cpu(build: Construction, number: int) -> None:
    machine = build.machine
    properties = [("device_type", text("cpu")), ("compatible", text(machine.cpu.compatible))]
    if machine.topology.cpus > 1 and not (machine.secure and machine.boot == "firmware"):
        properties.append(("enable-method", text("psci")))
    properties.append(("reg", cells(number // _CLUSTER_CPUS << 8 | number % _CLUSTER_CPUS)))
    node = cpu_numa_node(machine.numa_nodes, number)
    if node is not None:
        properties.append(("numa-node-id", cells(node)))
    build.cpus[number] = build.phandle()
    properties.append(("phandle", cells(build.cpus[number])))
    caches = machine.caches or machine.cpu.caches
    if machine.version.cpu_caches and caches is not None:
        properties += _cache_properties(caches)
    build.node(f"/cpus/cpu@{number}", properties)


def _cache_properties(caches: CpuCaches) -> list[tuple[str, bytes]]:
    return [
        ("d-cache-block-size", cells(caches.data_line)),
        ("d-cache-size", cells(caches.data_size)),
        ("d-cache-sets", cells(caches.data_sets)),
        ("i-cache-block-size", cells(caches.instruction_line)),
        ("i-cache-size", cells(caches.instruction_size)),
        ("i-cache-sets", cells(caches.instruction_sets)),
        ("next-level-cache", cells(caches.next_level)),
    ]


def _map_path(topology: Topology, number: int) -> str:
    core, thread = divmod(number, topology.threads)
    cluster, core = divmod(core, topology.cores)
    socket, cluster = divmod(cluster, topology.clusters)
    path = f"/cpus/cpu-map/socket{socket}/cluster{cluster}/core{core}"
    return f"{path}/thread{thread}" if topology.threads > 1 else path
