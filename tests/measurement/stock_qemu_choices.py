"""Command lines of QEMU drawn at random from everything that changes its device tree, and a few things that do not."""

import random
from dataclasses import dataclass
from pathlib import Path

from kbs_rim.measurement.vmm.stock_qemu_profile import QemuVersion


@dataclass(frozen=True)
class BootImages:
    """Files that QEMU takes for kernels, initrds and firmware; the last kernel needs much RAM."""

    kernels: tuple[Path, ...]
    initrds: tuple[Path, ...]
    firmware: Path

    @classmethod
    def make(cls, folder: Path) -> "BootImages":
        """Write them; a kernel is an arm64 Image header and nothing behind."""
        kernels = []
        for number, (text_offset, image_size) in enumerate(((0, 16 << 20), (0x80000, 48 << 20), (0, 144 << 20))):
            header = bytes(8) + b"".join(value.to_bytes(8, "little") for value in (text_offset, image_size, 0xA, 0, 0, 0)) + b"ARMd"
            kernels.append(folder / f"kernel{number}")
            kernels[-1].write_bytes(header.ljust(8192, b"\0"))
        initrds = []
        for size in (1, 4096, 3_000_000):
            initrds.append(folder / f"initrd{size}")
            initrds[-1].write_bytes(b"i" * size)
        firmware = folder / "firmware"
        firmware.write_bytes(bytes(65536))
        return cls(tuple(kernels), tuple(initrds), firmware)


_SMP = (
    "1", "2", "3", "4", "8", "8,sockets=2", "4,cores=2,threads=2,sockets=1", "16,clusters=2", "17", "2,maxcpus=4",
    "cpus=3,sockets=2,cores=3",    "8,sockets=1,clusters=2,cores=2,threads=2", "sockets=2", "3,maxcpus=12,threads=2", "124", "130", "62",
    "64,threads=2,sockets=2",
)  # fmt: skip
_HOTPLUG = ("", "", "", ",slots=2,maxmem=4G", ",slots=1,maxmem=300G", ",maxmem=8G", ",slots=8,maxmem=900G")
_NUMA = ("-object", "memory-backend-ram,id=a,size=128M", "-object", "memory-backend-ram,id=b,size=384M")


class Choices:
    """Draws command lines for one version."""

    def __init__(self, chance: random.Random, version: QemuVersion, images: BootImages) -> None:
        self._chance = chance
        self._version = version
        self._images = images

    def draw(self) -> list[str]:
        """Return the arguments; the first is -M, the second its value."""
        chance = self._chance
        cpus = sorted(set(self._version.cpus) - {"host"})
        cpu = chance.choice(["max", *cpus]) + chance.choice(("", "", ",pmu=off", ",pmu=on"))
        return ["-M", self._machine(), "-cpu", cpu, *self._sizes(), *self._boot(), *self._devices()]

    def _machine(self) -> str:
        chance, version = self._chance, self._version
        kind = chance.choice(["virt", "virt", *(f"virt-{major}.{minor}" for major, minor in version.machines)])
        parts = [kind, "dtb-randomness=off"]
        options = [
            (0.6, ("gic-version=3",)), (0.3, ("gic-version=2", "gic-version=max", "gic-version=4,virtualization=on")),
            (0.2, ("its=on", "its=off")), (0.2, ("virtualization=on",)), (0.15, ("secure=on",)), (0.1, ("highmem=off",)),
            (0.2, ("iommu=smmuv3",)), (0.1, ("default-bus-bypass-iommu=on",)), (0.25, ("acpi=off", "acpi=on", "acpi=auto")),
            (0.1, ("dt-compatible=foo",)), (0.1, ("phandle-start=0x100", "phandle-start=7")),
            (0.1, ("usb=on", "graphics=off", "mem-merge=off")),
        ]  # fmt: skip
        if version.layout_options:
            names = ("highmem-ecam", "highmem-mmio", "highmem-redists", "compact-highmem")
            options += [(0.15, (f"{name}=off", f"{name}=on")) for name in names]
        if version.mmio_size:
            options.append((0.1, ("highmem-mmio-size=1T",)))
        if version.msi_option:
            options += [(0.15, ("msi=its", "msi=gicv2m", "msi=off")), (0.1, ("virtio-mmio-transports=0", "virtio-mmio-transports=5"))]
        parts += [chance.choice(values) for probability, values in options if chance.random() < probability]
        return ",".join(parts)

    def _sizes(self) -> list[str]:
        chance = self._chance
        smp = chance.choice(_SMP)
        if chance.random() < 0.1:
            split = chance.random() < 0.5
            nodes = ("node,memdev=a,cpus=0", "node,memdev=b,cpus=1-3") if split else ("node,memdev=a", "node,memdev=b")
            return ["-smp", "4" if split else smp, "-m", "512", *_NUMA, "-numa", nodes[0], "-numa", nodes[1]]
        return ["-smp", smp, "-m", chance.choice(("128M", "512", "1G", "size=2097152k", "700M", "256M")) + chance.choice(_HOTPLUG)]

    def _boot(self) -> list[str]:
        chance, arguments = self._chance, []
        if chance.random() < 0.2:
            arguments += ["-bios", str(self._images.firmware)]
        if chance.random() < 0.5:
            arguments += ["-kernel", str(chance.choice(self._images.kernels))]
            if chance.random() < 0.6:
                arguments += ["-initrd", str(chance.choice(self._images.initrds))]
            if chance.random() < 0.6:
                arguments += ["-append", chance.choice(("console=ttyAMA0", "", 'a b  c,d=e "x"', "x" * 33))]
        return arguments

    def _devices(self) -> list[str]:
        chance, arguments = self._chance, []
        for _ in range(chance.choice((0, 0, 0, 1, 2, 2, 3))):
            arguments += ["-serial", chance.choice(("null", "null", "none"))]
        if chance.random() < 0.2:
            arguments += [
                "-device",
                chance.choice(
                    (
                        "virtio-rng-pci",
                        "pcie-root-port",
                        "ramfb",
                        "virtio-iommu-pci,addr=10",
                        "virtio-iommu-pci,bus=pcie.0,addr=3.2",
                        "pxb-pcie,bus_nr=128",
                    )
                ),
            ]
        return arguments
