"""Which options QEMU has and what each can do to a measurement, as tables. The source is ``qemu-system-aarch64 -help``.

What is not in a table is refused: better one question too many than a reference value that no realm has.
"""

import re
from collections.abc import Mapping

from kbs_rim.measurement.vmm.option_scanner import OptionTable

MEASURED_VALUES = frozenset({
    "m", "smp", "M", "machine", "object", "cpu", "append", "kernel", "initrd", "bios", "device", "drive", "dtb",
})  # fmt: skip
"""Options that the parser reads."""

IGNORED_FLAGS = frozenset({
    "enable-kvm", "nographic", "nodefaults", "no-user-config", "snapshot", "S", "s", "no-shutdown", "no-reboot", "daemonize",
    "singlestep", "one-insn-per-tb", "full-screen", "only-migratable", "mem-prealloc", "preconfig", "usb", "no-acpi", "semihosting",
    "no-fd-bootchk", "async-teardown", "portrait", "enable-sync-profile",
})  # fmt: skip
IGNORED_VALUES = frozenset({
    "accel", "action", "add-fd", "audio", "audiodev", "blockdev", "boot", "cdrom", "chardev", "chroot", "compat", "D", "d", "debugcon",
    "dfilter", "display", "echr", "fda", "fdb", "fsdev", "fw_cfg", "g", "gdb", "global", "hda", "hdb", "hdc", "hdd", "icount", "incoming",
    "iscsi", "k", "L", "loadvm", "mem-path", "mon", "monitor", "msg", "mtdblock", "name", "net", "netdev", "nic", "option-rom",
    "overcommit", "parallel", "perfmap", "pidfile", "plugin", "qmp", "qmp-pretty", "rotate", "rtc", "run-with", "runas", "sandbox", "sd",
    "seed", "semihosting-config", "serial", "shim", "smbios", "spice", "tb-size", "trace", "usbdevice", "uuid", "vga", "virtfs", "vnc",
    "watchdog", "watchdog-action", "acpitable",
})  # fmt: skip
TREE_VALUES: Mapping[str, str] = {
    "numa": "NUMA nodes change the device tree",
    "tpmdev": "a TPM on the platform bus changes the device tree",
}
"""Options that change the tree in a way that is not modelled: a tree must be given."""
REFUSED: Mapping[str, str] = {
    "pflash": "firmware in a flash drive is not modelled; start it with -bios",
    "readconfig": "the options in its file are not seen here; write them on the command line",
    "set": "what it changes is not seen here; write it into the option itself",
}

TABLE = OptionTable(
    valued=MEASURED_VALUES | IGNORED_VALUES | set(TREE_VALUES) | set(REFUSED),
    flags=IGNORED_FLAGS,
    short={},
    programs=re.compile(r"(?:.*/)?qemu-system-aarch64"),
)

MACHINE = re.compile(r"virt(?:-[0-9]{1,3}\.[0-9]{1,3})?")
MACHINE_IGNORED = frozenset({
    "confidential-guest-support", "acpi", "accel", "usb", "dump-guest-core", "mem-merge", "memory-backend", "graphics", "kernel_irqchip",
    "kernel-irqchip", "suppress-vmdesc", "phandle-start", "dtb-randomness", "dtb-kaslr-seed", "x-oem-id", "x-oem-table-id", "ras", "boot",
    "aux-ram-share", "dumpdtb", "hmat", "default-bus-bypass-iommu", "dtb", "kvm-type",
})  # fmt: skip
MACHINE_FIXED: Mapping[str, bool] = {
    "highmem": True,
    "highmem-ecam": True,
    "highmem-mmio": True,
    "highmem-redists": True,
    "compact-highmem": True,
    "secure": False,
    "virtualization": False,
    "mte": False,
    "nvdimm": False,
    "cxl": False,
}
"""Switches of the machine that have only one place in a realm whose layout is known."""
MACHINE_TREE = frozenset({"iommu", "highmem-mmio-size", "sgx-epc", "msi", "virtio-mmio-transports"})
MACHINE_FLASH = frozenset({"pflash0", "pflash1"})
CPU_MODELS = ("host", "max")
"""A realm runs on the host's CPU; under KVM ``max`` is the same."""
CPU_IGNORED = frozenset({
    "aarch64", "kvm-no-adjvtime", "kvm-steal-time", "pauth", "pauth-impdef", "pauth-qarma3", "pauth-qarma5", "start-powered-off",
    "backcompat-cntfrq", "backcompat-pauth-default-use-qarma5", "lpa2", "vfp", "neon", "cfgend",
})  # fmt: skip
CPU_SME = re.compile(r"sme(?:[0-9]{3,4}|_fa64)?")
"""SME is not for realms; the host's CPU lacks it or has it switched off."""
CPU_LIMITS = ("num-breakpoints", "num-watchpoints", "num-pmu-counters")
GUEST_TYPE = "rme-guest"
VIRTCCA_TYPE = "tmm-guest"
"""The guest of Huawei's virtCCA, which has the calls of the RMM in another monitor."""
OTHER_GUESTS = ("sev-guest", "sev-snp-guest", "tdx-guest", "pef-guest", "s390-pv-guest")
DEVICES_WITHOUT_EFFECT = re.compile(
    r"virtio-(?!iommu|mem|pmem)[a-z0-9-]+|virtconsole|virtserialport|vhost-[a-z0-9-]+|usb-[a-z0-9-]+|scsi-[a-z]+|pcie-root-port|"
    r"pci(?:e-pci)?-bridge|x3130-[a-z-]+|nvme(?:-ns)?|e1000e?|igb|qemu-xhci|nec-usb-xhci|vfio-pci(?:-nohotplug)?|rtl8139|ahci|ide-[a-z]+|"
    r"pvpanic-pci|pci-serial|edu|isa-[a-z]+|vmcoreinfo|i6300esb"
)
"""PCI devices and what sits on them: the tree names the host bridge only."""
LOADERS = ("loader", "guest-loader")
"""Devices that put bytes of their own into RAM before the start, or say where the CPU starts."""
DEVICES_IN_TREE = re.compile(
    r"arm-smmuv3|virtio-iommu-pci|virtio-(?:mem|pmem)-pci|pxb-pcie|nvdimm|pc-dimm|tpm-tis-device|vfio-(?:platform|amd-xgbe|calxeda-xgmac)|"
    r"[a-z0-9-]*sysbus[a-z0-9-]*"
)
