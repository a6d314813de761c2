"""A libvirt domain as the arguments that libvirt starts QEMU with, as far as they say anything about a realm.

Follows libvirt 12.8 (src/qemu/qemu_command.c, docs/formatdomain), and for realms what it does not have: the launch security type
``cca`` as proposed for libvirt and KubeVirt, as openEuler documents it, and as Huawei's virtCCA uses it; and ``qemu:commandline``, which
needs no support at all. What cannot matter (disks, networks, graphics) is left out; what might, and is not known, is a remark.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from kbs_rim.evidence.printable import printable
from kbs_rim.measurement.vmm.libvirt_cpu import cpu_arguments, memory_of, smp_argument
from kbs_rim.measurement.vmm.libvirt_devices import device_arguments, iommu_of
from kbs_rim.measurement.vmm.libvirt_xml import XmlElement, parse_xml, refuse_definition

QEMU_NAMESPACE = "http://libvirt.org/schemas/domain/qemu/1.0"
_MACHINE = re.compile(r"virt(?:-[0-9]{1,3}\.[0-9]{1,3})?")
_ACCELERATORS = {"kvm": "kvm", "qemu": "tcg"}
_SECURITY_ID = "lsec0"
_YES_NO = {"yes": True, "on": True, "no": False, "off": False}
_SILENT = frozenset({
    "name", "uuid", "genid", "title", "description", "metadata", "memory", "currentMemory", "maxMemory", "memoryBacking", "memtune",
    "vcpu", "vcpus", "iothreads", "iothreadids", "defaultiothread", "cputune", "resource", "sysinfo", "os", "features", "cpu", "clock",
    "on_poweroff", "on_reboot", "on_crash", "on_lockfailure", "pm", "perf", "seclabel", "keywrap", "launchSecurity", "devices",
    "blkiotune", "numatune", "throttlegroups", "bootloader", "idmap",
})  # fmt: skip
"""Elements that are read, or that say nothing which a realm's measurement could depend on."""
_FEATURES_SILENT = frozenset({
    "acpi", "gic", "pmu", "apic", "pae", "hap", "privnet", "viridian", "vmport", "smm", "ioapic", "vmcoreinfo", "async-teardown", "ps2",
})  # fmt: skip
_FEATURE_SWITCHES = ("ras", "mte")
"""Features that become a switch of the machine of the same name."""


@dataclass(frozen=True, slots=True)
class LibvirtDomain:
    """``arguments`` are those of ``qemu-system-aarch64``; ``remarks`` say where libvirt decides what the definition leaves open."""

    arguments: tuple[str, ...]
    remarks: tuple[str, ...]


def read_libvirt_domain(data: bytes, qemu_version: tuple[int, int] | None = None) -> LibvirtDomain:
    """Return what libvirt makes of a definition. ``qemu_version`` is the emulator's, which decides what the machine ``virt`` is.

    Raises ``InvalidDocument`` (``document.vm-definition``): XML that is not read (see ``parse_xml``), what libvirt refuses itself, what
    is no VM of QEMU on 64-bit Arm, another kind of confidential guest.
    """
    domain = parse_xml(data)
    if domain.name != "domain" or domain.namespace:
        raise refuse_definition("XML", "is no libvirt domain: the outermost element is <domain>")
    _check_kind(domain)
    remarks: list[str] = []
    realm = _launch_security(domain, remarks)
    firmware = _Firmware.of(domain)
    total, memory, backends = memory_of(domain)
    machine = _machine(domain, qemu_version, firmware, realm, single_node=bool(total), remarks=remarks)
    arguments = [
        *("-machine", machine),
        *("-accel", _ACCELERATORS[domain.attributes.get("type", "")]),
        *cpu_arguments(domain),
        *(("-bios", firmware.rom) if firmware.rom else ()),
        *("-m", memory),
        *(("-object", _ram_object("mach-virt.ram", total)) if total else ()),
        *("-smp", smp_argument(domain)),
    ]
    for backend, size, node in backends:
        arguments += ["-object", _ram_object(backend, size), "-numa", node]
    arguments += _direct_boot(domain)
    arguments += device_arguments(domain, remarks)
    arguments += ["-object", realm.option] if realm.option else []
    arguments += _passthrough(domain, remarks)
    _note_unread(domain, remarks)
    return LibvirtDomain(tuple(arguments), tuple(remarks))


@dataclass(frozen=True, slots=True)
class _Realm:
    """What <launchSecurity> asks for: a guest object if libvirt makes one. ``own_its``: a libvirt that reads its= of <gic>."""

    option: str = ""
    present: bool = False
    own_its: bool = False


@dataclass(frozen=True, slots=True)
class _Firmware:
    """What <loader> names: a file for -bios, or flash."""

    rom: str = ""
    flash: bool = False
    variables: bool = False

    @classmethod
    def of(cls, domain: XmlElement) -> "_Firmware":
        system = domain.first("os")
        if system is None:
            raise refuse_definition("<os>", "is missing")
        loader = system.first("loader")
        path = loader.text.strip() if loader is not None else ""
        if "firmware" in system.attributes or (loader is not None and not path):
            raise refuse_definition("<os firmware>", "libvirt takes a firmware of its host: write <loader> with the file's name")
        if loader is None:
            return cls()
        kind = loader.attributes.get("type", "rom")
        if kind not in ("rom", "pflash"):
            raise refuse_definition("<loader>", f"type {printable(kind, 20)} is neither rom nor pflash")
        return cls(rom=path) if kind == "rom" else cls(flash=True, variables=system.first("nvram") is not None)


def _check_kind(domain: XmlElement) -> None:
    kind = domain.attributes.get("type", "")
    if kind not in _ACCELERATORS:
        raise refuse_definition("<domain type>", f"{printable(kind, 20) or 'nothing'} is neither kvm nor qemu")
    system = domain.first("os", "type")
    architecture = system.attributes.get("arch", "") if system is not None else ""
    if system is None or system.text.strip() != "hvm" or architecture != "aarch64":
        raise refuse_definition("<os><type>", "a realm is <type arch='aarch64' machine='virt'>hvm</type>")


def _launch_security(domain: XmlElement, remarks: list[str]) -> _Realm:
    element = domain.first("launchSecurity")
    if element is None:
        return _Realm()
    kind = element.attributes.get("type", "")
    if kind != "cca":
        raise refuse_definition("<launchSecurity>", f"type {printable(kind, 20) or 'nothing'} is not Arm CCA")
    if element.attributes.get("hisi-cca-enable") == "yes":
        remarks.append("hisi-cca-enable: virtCCA runs no RMM; whether its monitor measures alike is not known")
        return _Realm(present=True, own_its=True)
    state = element.first("measurement-log")
    log = element.attributes.get("measurement-log") if state is None else state.attributes.get("state", "on")
    members: dict[str, object] = {"qom-type": "rme-guest", "id": _SECURITY_ID}
    if algorithm := (element.text_at("measurement-algo") or element.text_at("measurement-algorithm")).strip():
        members["measurement-algorithm"] = algorithm
    if value := element.text_at("personalization-value").strip():
        members["personalization-value"] = _checked_base64(value)
    if log is not None:
        if log not in _YES_NO:
            raise refuse_definition("<launchSecurity>", "measurement-log is yes or no")
        members["measurement-log"] = _YES_NO[log]
    return _Realm(json.dumps(members, separators=(",", ":")), present=True, own_its=state is not None)


def _checked_base64(value: str) -> str:
    try:
        base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise refuse_definition("<personalization-value>", "is not base64") from None
    return value


def _machine(
    domain: XmlElement, version: tuple[int, int] | None, firmware: _Firmware, realm: _Realm, *, single_node: bool, remarks: list[str]
) -> str:
    kind = domain.first("os", "type")
    name = kind.attributes.get("machine", "") if kind is not None else ""
    if not _MACHINE.fullmatch(name):
        raise refuse_definition("<type machine>", f"{printable(name, 40) or 'nothing'} is not known; a realm's machine is virt")
    if name == "virt" and version is not None:
        name = f"virt-{version[0]}.{version[1]}"
    acpi = domain.first("features", "acpi") is not None
    if acpi and not firmware.flash:
        raise refuse_definition("<acpi>", "needs UEFI in a flash drive on this architecture, says libvirt: take it out")
    parts = [name, "usb=off", *_gic(domain, realm, remarks)]
    if iommu := iommu_of(domain):
        parts.append(f"iommu={iommu}")
    parts.append("dump-guest-core=off")
    parts += ["memory-backend=mach-virt.ram"] if single_node else []
    parts += [f"confidential-guest-support={_SECURITY_ID}"] if realm.option else []
    parts += ["pflash0=libvirt-pflash0-format"] if firmware.flash else []
    parts += ["pflash1=libvirt-pflash1-storage"] if firmware.variables else []
    parts.append(f"acpi={'on' if acpi else 'off'}")
    for feature in _FEATURE_SWITCHES:
        if (element := domain.first("features", feature)) is not None:
            parts.append(f"{feature}={_state(element)}")
    return ",".join(parts)


def _state(element: XmlElement) -> str:
    state = element.attributes.get("state", "on")
    if state not in ("on", "off"):
        raise refuse_definition(f"<{element.name}>", "state is on or off")
    return state


def _gic(domain: XmlElement, realm: _Realm, remarks: list[str]) -> Iterator[str]:
    element = domain.first("features", "gic")
    if element is None or "version" not in element.attributes:
        kvm = domain.attributes["type"] == "kvm"
        remarks.append(f"no <gic version>: libvirt chooses {'3 where KVM has it' if kvm else '2 without KVM'}")
        yield f"gic-version={3 if kvm else 2}"
    else:
        version = element.attributes["version"]
        if version not in ("2", "3", "4", "host"):
            raise refuse_definition("<gic>", f"version {printable(version, 20)} is not 2, 3, 4 or host")
        yield f"gic-version={version}"
    its = None if element is None else element.attributes.get("its")
    if its is None:
        return
    if its not in ("on", "off"):
        raise refuse_definition("<gic>", "its is on or off")
    if realm.own_its:
        yield f"its={its}"
    elif its == "off":
        remarks.append("<gic its='off'>: libvirt drops the attribute, only openEuler's reads it; the ITS is taken to be there")


def _ram_object(name: str, size: int) -> str:
    return json.dumps({"qom-type": "memory-backend-ram", "id": name, "size": size}, separators=(",", ":"))


def _direct_boot(domain: XmlElement) -> Iterator[str]:
    """An empty element is none, for libvirt as well."""
    for element, option in (("kernel", "-kernel"), ("initrd", "-initrd"), ("cmdline", "-append"), ("dtb", "-dtb")):
        if text := domain.text_at("os", element):
            yield from (option, text)


def _passthrough(domain: XmlElement, remarks: list[str]) -> Iterator[str]:
    """Yield the arguments that libvirt hands on unread, behind all others: QEMU lets the last value of a key win."""
    for element in domain.children:
        if element.namespace != QEMU_NAMESPACE:
            continue
        if element.name != "commandline":
            remarks.append(f"<qemu:{printable(element.name, 40)}>: what it changes is not seen here")
            continue
        for item in element.children:
            if item.name == "arg" and item.namespace == QEMU_NAMESPACE:
                if "value" not in item.attributes:
                    raise refuse_definition("<qemu:arg>", "has no value")
                yield item.attributes["value"]
            else:
                remarks.append(f"<qemu:{printable(item.name, 40)}>: what it changes is not seen here")


def _note_unread(domain: XmlElement, remarks: list[str]) -> None:
    unread = [element.name for element in domain.children if not element.namespace and element.name not in _SILENT]
    features = domain.first("features")
    known = {*_FEATURES_SILENT, *_FEATURE_SWITCHES}
    unread += [element.name for element in (features.children if features is not None else ()) if element.name not in known]
    remarks += [
        f"<{printable(name, 40)}>: not known here; taken for something that changes no measurement" for name in dict.fromkeys(unread)
    ]
