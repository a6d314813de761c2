"""The virtual machines of the demo, as data: how each is started, what the administrator registers for it, what it asks for."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template

_EXTENDED = hashlib.sha256(b"the application's configuration").digest()
REM0_AFTER_BOOT = hashlib.sha256(bytes(32) + _EXTENDED).hexdigest()
"""What one extend makes of an empty REM: H(old || value)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vm:
    """One VM. ``files`` maps options of ``kbs-rim simulate`` to image names, ``options`` are the others.

    ``platform`` names the machine it runs on. ``workload`` is the administrator's description, ``key`` names the secret it asks for.
    """

    workload: str
    title: str
    files: Mapping[str, str]
    options: tuple[str, ...]
    platform: str
    key: str
    key_type: str = "p256"

    def arguments(self, images: Mapping[str, Path]) -> list[str]:
        """Return the options of ``kbs-rim simulate`` for this VM."""
        files = [part for option, name in self.files.items() for part in (f"--{option}", str(images[name]))]
        return [*files, *self.options]

    @property
    def measures_a_disk(self) -> bool:
        """True if firmware boots the disk, and measures it into REMs."""
        return any(option.startswith("disk-") for option in self.files)

    @property
    def registers_its_tree(self) -> bool:
        """True if the administrator registers its device tree; where no log is, the broker makes it."""
        return "--without-log" not in self.options

    @property
    def firmware_log(self) -> str:
        """Name under which the log of its reference boot is kept."""
        return f"{self.workload}.ccel"

    @property
    def device_tree(self) -> str:
        """Name under which its device tree is kept."""
        return f"{self.workload}.dtb"


_DEBIAN = {"kernel": "linux", "initrd": "initrd.gz"}
QEMU_KERNEL = Vm(
    workload="qemu-kernel",
    title="QEMU, kernel boot",
    files=_DEBIAN,
    options=("--vmm", "qemu", "--memory", "1G", "--cpus", "2", "--append", "console=ttyAMA0 quiet"),
    platform="machine-1",
    key="web/luks/root",
)
QEMU_FIRMWARE = Vm(
    workload="qemu-firmware",
    title="QEMU, firmware boot",
    files={"firmware": "QEMU_EFI.fd"},
    options=(
        *("--vmm", "qemu", "--boot", "firmware", "--memory", "2G", "--cpus", "4", "--hash", "sha512"),
        *("--rmm", "2.0", "--order", "ripas-last", "--profile", "2024-2024", "--private-memory"),
    ),
    platform="machine-2",
    key="db/tls/server",
    key_type="rsa",
)
KVMTOOL_KERNEL = Vm(
    workload="kvmtool-kernel",
    title="kvmtool, kernel boot",
    files=_DEBIAN,
    options=(
        *("--vmm", "kvmtool", "--memory", "512M", "--cpus", "1", "--append", "console=hvc0"),
        *("--form", "399", "--extend", f"1={_EXTENDED.hex()}"),
    ),
    platform="machine-1",
    key="batch/token/api",
    key_type="x25519",
)
NO_LOG = Vm(
    workload="no-log",
    title="QEMU, kernel boot, no log",
    files=_DEBIAN,
    options=("--vmm", "qemu", "--memory", "3G", "--cpus", "4", "--append", "console=ttyAMA0 quiet", "--without-log", "--sve-bits", "512"),
    platform="machine-1",
    key="edge/luks/root",
)
DISK_COMMAND_LINE = "console=ttyAMA0 quiet"
MEASURED_BOOT = Vm(
    workload="measured-boot",
    title="QEMU, measured boot",
    files={"firmware": "QEMU_EFI.fd", "disk-kernel": "linux", "disk-initrd": "initrd.gz"},
    options=("--vmm", "qemu", "--boot", "firmware", "--memory", "1G", "--cpus", "2", "--disk-append", DISK_COMMAND_LINE),
    platform="machine-1",
    key="vault/disk/data",
    key_type="p384",
)
TENANT_B = Vm(
    workload="tenant-b",
    title="another tenant",
    files={"kernel": "linux", "initrd": "initrd-b.gz"},
    options=("--vmm", "qemu", "--memory", "1G", "--cpus", "2", "--append", "console=ttyAMA0 tenant=b"),
    platform="machine-2",
    key="tenant-b/luks/root",
)
SERVED = (QEMU_KERNEL, QEMU_FIRMWARE, KVMTOOL_KERNEL, NO_LOG, MEASURED_BOOT)
EVERY = (*SERVED, TENANT_B)
MIXED = Vm(
    workload=QEMU_KERNEL.workload,
    title="tenant B's initrd in tenant A's VM",
    files={"kernel": "linux", "initrd": "initrd-b.gz"},
    options=QEMU_KERNEL.options,
    platform=QEMU_KERNEL.platform,
    key=QEMU_KERNEL.key,
)

VALUES: Mapping[str, bytes] = {
    QEMU_KERNEL.key: bytes(range(256)) * 2,
    QEMU_FIRMWARE.key: b"-----BEGIN DEMO KEY-----\r\nnot a key, but newlines, \0 and \xff must survive\n",
    KVMTOOL_KERNEL.key: "Bärenhunger 🐻 ohne Zeilenende".encode(),
    NO_LOG.key: b"a secret for whom no log speaks",
    MEASURED_BOOT.key: bytes(64),
    TENANT_B.key: b"tenant B's own secret",
}
"""Secrets that a careless program would damage."""


def rebuilt(initrd: bytes) -> bytes:
    """Return another build of an initrd: same contents, same size, other bytes (gzip's time stamp, else the last byte)."""
    changed = bytearray(initrd)
    position = 4 if changed[:2] == b"\x1f\x8b" else len(changed) - 1
    changed[position] ^= 0xFF
    return bytes(changed)


def workload_text(template: str, names: Mapping[str, str]) -> str:
    """Fill image ids into a workload file; raise ``KeyError`` for a name that nobody registered."""
    return Template(template).substitute(names)
