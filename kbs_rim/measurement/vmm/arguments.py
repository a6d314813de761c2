"""From the arguments of any VMM to the VM that they define."""

from collections.abc import Callable, Mapping, Sequence

from kbs_rim.measurement.vmm.cloud_hypervisor_arguments import parse_cloud_hypervisor_arguments
from kbs_rim.measurement.vmm.definition import VmDefinition, Vmm
from kbs_rim.measurement.vmm.kvmtool_arguments import parse_kvmtool_arguments
from kbs_rim.measurement.vmm.qemu_arguments import parse_qemu_arguments

_PARSERS: Mapping[Vmm, Callable[[Sequence[str]], VmDefinition]] = {
    "qemu": parse_qemu_arguments,
    "kvmtool": parse_kvmtool_arguments,
    "cloud-hypervisor": parse_cloud_hypervisor_arguments,
}


def parse_arguments(vmm: Vmm, arguments: Sequence[str]) -> VmDefinition:
    """Return the VM that ``arguments`` define; the program's own name may stand in front of them.

    Raises ``InvalidDocument`` (``document.vm-arguments``) that names the option: unknown, malformed, missing or not modelled.
    """
    return _PARSERS[vmm](arguments)
