"""Which files a command line names for what is loaded: only names, of the machine that starts the VM. Nothing is opened here."""

from collections.abc import Mapping, Sequence

from kbs_rim.measurement.vmm import cloud_hypervisor_arguments, kvmtool_arguments, qemu_options
from kbs_rim.measurement.vmm.argument_values import split_properties
from kbs_rim.measurement.vmm.definition import Vmm
from kbs_rim.measurement.vmm.option_scanner import scan_getopt, scan_words

DEVICE_TREE = "device-tree"
_QEMU = {"kernel": "kernel", "initrd": "initrd", "bios": "firmware", "dtb": DEVICE_TREE}
_QEMU_MACHINE = {"kernel": "kernel", "initrd": "initrd", "firmware": "firmware", "dtb": DEVICE_TREE}
_KVMTOOL = {"kernel": "kernel", "initrd": "initrd", "firmware": "firmware", "dtb": DEVICE_TREE}
_CLOUD_HYPERVISOR = {"kernel": "kernel", "initramfs": "initrd", "dtb": DEVICE_TREE}


def named_files(vmm: Vmm, arguments: Sequence[str]) -> Mapping[str, str]:
    """Return file names by role (kernel, initrd, firmware, device-tree); the last of a kind counts.

    Raises ``InvalidDocument`` (``document.vm-arguments``) as the VMM's parser does.
    """
    if vmm == "qemu":
        return _qemu_files(arguments)
    table, roles = (
        (kvmtool_arguments.TABLE, _KVMTOOL) if vmm == "kvmtool" else (cloud_hypervisor_arguments.TABLE, _CLOUD_HYPERVISOR)
    )  # fmt: skip
    return {roles[option.name]: option.value for option in scan_getopt(arguments, table) if option.name in roles}


def _qemu_files(arguments: Sequence[str]) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for option in scan_words(arguments, qemu_options.TABLE):
        if option.name in ("M", "machine"):
            for key, value in split_properties(option.value, escaped=True):
                if key in _QEMU_MACHINE:
                    found[_QEMU_MACHINE[key]] = value
        elif option.name in _QEMU:
            found[_QEMU[option.name]] = option.value
    return found
