"""What differs between the versions of QEMU, and between its models of a CPU, as far as a device tree shows it: data.

Every row was read off trees that the emulator of that version wrote (docs/device-trees.md names the packages). The version of the
emulator counts, not that of the machine type.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from kbs_rim.measurement.vmm.profile import refuse

Version = tuple[int, int]


@dataclass(frozen=True, slots=True)
class CpuCaches:
    """First-level caches as newer QEMU describes them; sizes in bytes. ``next_level`` is the phandle of a further cache, or 0."""

    data_line: int
    data_size: int
    data_sets: int
    instruction_line: int
    instruction_size: int
    instruction_sets: int
    next_level: int = 0


@dataclass(frozen=True, slots=True)
class CpuModel:
    """One ``-cpu``: the tree's ``compatible``, bits of physical addresses, and whether it has FEAT_VHE.

    ``caches`` and ``address_bits`` are None where the host decides (``-cpu host``).
    """

    name: str
    compatible: str
    address_bits: int | None
    vhe: bool
    caches: CpuCaches | None


@dataclass(frozen=True, slots=True, kw_only=True)
class QemuVersion:
    """One version of the emulator. ``machines`` are its machine types that this generator knows, newest first."""

    version: Version
    machines: tuple[Version, ...]
    cpus: Mapping[str, CpuModel] = field(repr=False)
    root_dma_coherent: bool
    aliases: bool
    """/aliases, and with it the first serial port before the second one."""
    wide_initrd: bool
    """The initrd's addresses have 8 bytes, not as many as they need."""
    cpu_caches: bool
    second_uart: bool
    """A second ``-serial`` adds a second UART to a machine without secure world."""
    virtual_el2_timer: bool
    """virtualization=on adds the fifth timer interrupt, for CPUs with FEAT_VHE."""
    layout_options: bool
    """highmem-ecam, highmem-mmio, highmem-redists and compact-highmem can be set."""
    mmio_size: bool
    """highmem-mmio-size can be set."""
    msi_option: bool
    """msi and virtio-mmio-transports can be set."""

    @property
    def name(self) -> str:
        """Such as ``10.0``."""
        return ".".join(map(str, self.version))


def _cpus(*names: str) -> Mapping[str, CpuModel]:
    return MappingProxyType({name: _MODELS[name] for name in names})


_SMALL = CpuCaches(64, 0x8000, 128, 64, 0x8000, 128)
_A53 = CpuCaches(64, 0x8000, 128, 64, 0x8000, 512)
_A57 = CpuCaches(64, 0x8000, 128, 64, 0xC000, 256)
_LARGE = CpuCaches(64, 0x10000, 256, 64, 0x10000, 256)
_A64FX = CpuCaches(256, 0x10000, 64, 256, 0x10000, 64)
_MODELS = {
    model.name: model
    for model in (
        CpuModel("cortex-a35", "arm,cortex-a35", 40, False, _SMALL),
        CpuModel("cortex-a53", "arm,cortex-a53", 40, False, _A53),
        CpuModel("cortex-a55", "arm,cortex-a55", 40, True, _SMALL),
        CpuModel("cortex-a57", "arm,cortex-a57", 44, False, _A57),
        CpuModel("cortex-a72", "arm,cortex-a72", 44, False, _A57),
        CpuModel("cortex-a76", "arm,cortex-a76", 40, True, _LARGE),
        CpuModel("cortex-a710", "arm,cortex-a710", 40, True, _LARGE),
        CpuModel("a64fx", "arm,a64fx", 40, True, _A64FX),
        CpuModel("neoverse-n1", "arm,neoverse-n1", 48, True, _LARGE),
        CpuModel("neoverse-n2", "arm,neoverse-n2", 48, True, _LARGE),
        CpuModel("neoverse-v1", "arm,neoverse-v1", 48, True, _LARGE),
        CpuModel("max", "arm,cortex-a57", 52, True, _LARGE),
        CpuModel("host", "arm,arm-v8", None, True, None),
    )
}
_CPUS_7_2 = ("cortex-a35", "cortex-a53", "cortex-a57", "cortex-a72", "cortex-a76", "a64fx", "neoverse-n1", "max", "host")
_CPUS_10_0 = (*_CPUS_7_2, "cortex-a55", "cortex-a710", "neoverse-n2", "neoverse-v1")
_MACHINES = (
    (11, 1), (11, 0), (10, 2), (10, 1), (10, 0), (9, 2), (9, 1), (9, 0), (8, 2), (8, 1), (8, 0), (7, 2), (7, 1), (7, 0), (6, 2),
)  # fmt: skip


def _machines(version: Version) -> tuple[Version, ...]:
    return tuple(machine for machine in _MACHINES if machine <= version)


VERSIONS: Mapping[Version, QemuVersion] = MappingProxyType(
    {
        profile.version: profile
        for profile in (
            QemuVersion(
                version=(7, 2),
                machines=_machines((7, 2)),
                cpus=_cpus(*_CPUS_7_2),
                root_dma_coherent=False,
                aliases=False,
                wide_initrd=False,
                cpu_caches=False,
                second_uart=False,
                virtual_el2_timer=False,
                layout_options=False,
                mmio_size=False,
                msi_option=False,
            ),
            QemuVersion(
                version=(10, 0),
                machines=_machines((10, 0)),
                cpus=_cpus(*_CPUS_10_0),
                root_dma_coherent=True,
                aliases=True,
                wide_initrd=True,
                cpu_caches=False,
                second_uart=True,
                virtual_el2_timer=True,
                layout_options=True,
                mmio_size=True,
                msi_option=False,
            ),
            QemuVersion(
                version=(11, 1),
                machines=_machines((11, 1)),
                cpus=_cpus(*_CPUS_10_0),
                root_dma_coherent=True,
                aliases=True,
                wide_initrd=True,
                cpu_caches=True,
                second_uart=True,
                virtual_el2_timer=True,
                layout_options=True,
                mmio_size=True,
                msi_option=True,
            ),
        )
    }
)


def qemu_version(text: str) -> QemuVersion:
    """Return the profile of a version such as ``10.0`` or ``10.0.13``; the third number changes nothing.

    Raises ``InvalidDocument`` (``document.vm``) for a version of which no tree was seen.
    """
    parts = text.split(".")
    if 2 <= len(parts) <= 3 and all(part.isascii() and part.isdigit() and len(part) < 4 for part in parts):
        profile = VERSIONS.get((int(parts[0]), int(parts[1])))
        if profile is not None:
            return profile
    known = ", ".join(profile.name for profile in VERSIONS.values())
    raise refuse(f"the trees of QEMU {text[:40]!r} are not known; known are those of {known}")
