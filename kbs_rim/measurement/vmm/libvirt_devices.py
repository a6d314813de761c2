"""Devices of a libvirt domain, as far as QEMU's device tree shows them: serial ports, IOMMUs, memory, TPM, expander buses.

What is behind PCI Express is not in the tree, and is passed over.
"""

from collections.abc import Iterator

from kbs_rim.evidence.printable import printable
from kbs_rim.measurement.vmm.libvirt_xml import XmlElement, refuse_definition

_SILENT = frozenset({
    "emulator", "disk", "controller", "interface", "hostdev", "input", "graphics", "video", "sound", "audio", "rng", "memballoon",
    "watchdog", "filesystem", "channel", "redirdev", "redirfilter", "smartcard", "hub", "panic", "shmem", "vsock", "crypto", "lease",
    "nvram", "console", "serial", "iommu", "memory", "tpm", "parallel", "pstore",
})  # fmt: skip
_MEMORY_DEVICES = {"dimm": "pc-dimm", "nvdimm": "nvdimm", "virtio-mem": "virtio-mem-pci", "virtio-pmem": "virtio-pmem-pci"}
_TPM_ON_BUS = ("tpm-tis",)
_UART_TARGETS = ("", "system-serial")
"""Kinds of <serial> that are the machine's own ports; the others are behind PCI or USB."""
_CONSOLE_TARGETS = ("", "serial")


def iommu_of(domain: XmlElement) -> str:
    """Return the value of the machine's ``iommu``, "" for none. Raises ``InvalidDocument`` (``document.vm-definition``)."""
    element = domain.first("devices", "iommu")
    model = "" if element is None else element.attributes.get("model", "")
    if model not in ("", "smmuv3", "virtio"):
        raise refuse_definition("<iommu>", f"model {printable(model, 20)} is not one for 64-bit Arm")
    return "smmuv3" if model == "smmuv3" else ""


def device_arguments(domain: XmlElement, remarks: list[str]) -> list[str]:
    """Return the arguments of devices that may be in the device tree; a device that is not known becomes one of ``remarks``.

    Raises ``InvalidDocument`` (``document.vm-definition``).
    """
    devices = domain.first("devices")
    if devices is None:
        return []
    arguments = [word for number in range(_serials(devices)) for word in ("-serial", f"chardev:charserial{number}")]
    for element in devices.children:
        arguments += _device(element)
        if element.namespace or element.name not in _SILENT:
            remarks.append(f"<{printable(element.name, 40)}>: not known here; taken for a device that is not in the device tree")
    return arguments


def _serials(devices: XmlElement) -> int:
    """Count the machine's serial ports. Without <serial>, the first console is one."""
    ports = [port for port in devices.all("serial") if _target(port) in _UART_TARGETS]
    if not any(True for _ in devices.all("serial")) and any(_target(console) in _CONSOLE_TARGETS for console in devices.all("console")):
        return 1
    return len(ports)


def _target(port: XmlElement) -> str:
    target = port.first("target")
    return "" if target is None else target.attributes.get("type", "")


def _device(element: XmlElement) -> Iterator[str]:
    attributes = element.attributes
    if element.name == "iommu" and attributes.get("model") == "virtio":
        yield from ("-device", "virtio-iommu-pci")
    elif element.name == "memory":
        model = attributes.get("model", "")
        if model not in _MEMORY_DEVICES:
            raise refuse_definition("<memory>", f"model {printable(model, 20)} is not known for 64-bit Arm")
        yield from ("-device", _MEMORY_DEVICES[model])
    elif element.name == "tpm" and attributes.get("model", "tpm-tis") in _TPM_ON_BUS:
        yield from ("-device", "tpm-tis-device")
    elif element.name == "controller" and attributes.get("model") in ("pcie-expander-bus", "pci-expander-bus"):
        yield from ("-device", "pxb-pcie")
