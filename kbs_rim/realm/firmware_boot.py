"""What firmware for Arm CCA, boot loaders and Linux measure of a boot, in their order: a model that shares nothing with those who judge.

The firmware starts first; the RIM covers it. What it finds on a disk it measures into REMs by RSI_MEASUREMENT_EXTEND before it starts it,
and writes an event for each into the log that the CCEL table of ACPI points to. Order, registers and contents follow EDK2 for Arm CCA
(UEFI 2.11 section 38; what would be PCR 0 goes to measurement register 1, because nobody can extend the RIM), GRUB 2.12, systemd-stub 258
and Linux's EFI stub. Only Authenticode hashes and sections of UKIs are taken from the code that registers images.
"""

import hashlib
import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.limits import DEFAULT_LIMITS
from kbs_rim.measurement.measured_parts import PartsReader
from kbs_rim.measurement.pe_facts import PeFacts
from kbs_rim.realm.failures import SimulationFailed
from kbs_rim.realm.rim_model import RealmHash

FIRMWARE_REGISTER, BOOT_REGISTER, SYSTEM_REGISTER = 1, 2, 3
"""Measurement registers, which are RSI indexes too: REM0, REM1 and REM2."""
_EV_SEPARATOR, _EV_ACTION_EFI = 0x4, 0x80000007
_EV_EVENT_TAG, _EV_S_CRTM_VERSION, _EV_IPL, _EV_NONHOST_CONFIG = 0x6, 0x8, 0xD, 0x10
_EV_VARIABLE_DRIVER_CONFIG, _EV_VARIABLE_BOOT, _EV_APPLICATION = 0x80000001, 0x80000002, 0x80000003
_EV_GPT_EVENT, _EV_VARIABLE_AUTHORITY = 0x80000006, 0x800000E0
_GLOBAL = uuid.UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
_SECURITY = uuid.UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
_X509 = uuid.UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
_OWNER = uuid.UUID("77fa9abd-0359-4d32-bd60-28f4e78f784b")
_TAG_INITRD, _TAG_LOAD_OPTIONS = 0x8F3B22EC, 0x8F3B22ED
_VENDOR_MEDIA, _FILE_PATH, _END = (4, 3), (4, 4), (0x7F, 0xFF)
_SYSTEM_PARTITION = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
# signature, revision, header size, CRC and 4 reserved bytes, this header and the other one, usable area, disk; entries, count, size, CRC
_GPT_HEADER = struct.Struct("<8sIII4xQQQQ16sQIII")
_LOADED_AT = 0x7A9F6018
"""Where firmware puts images: nobody measures it."""
_VERSION = "simulated EDK2 for Arm CCA"
_STUB_ORDER = (".linux", ".osrel", ".cmdline", ".initrd", ".uname", ".sbat", ".pcrpkey")
_GRUB_DEVICE = "(hd0,gpt2)"


@dataclass(frozen=True, slots=True)
class Measured:
    """One measurement: ``register`` 1 to 4, the event as it is logged, and the digest that extends the register."""

    register: int
    event_type: int
    event: bytes
    digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """What firmware finds on the disk: a UKI, or a kernel with its initrd and command line, perhaps with GRUB before it.

    ``secure_boot`` is the certificate (DER) in db that vouches for what is started; None: Secure Boot is off.
    Raises ``SimulationFailed`` for what no firmware could start.
    """

    kernel: bytes | None = field(default=None, repr=False)
    initrd: bytes | None = field(default=None, repr=False)
    append: str = ""
    grub: bytes | None = field(default=None, repr=False)
    uki: bytes | None = field(default=None, repr=False)
    secure_boot: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if (self.uki is None) == (self.kernel is None):
            raise SimulationFailed("the disk has a UKI, or a kernel")
        if self.uki is not None and (self.initrd is not None or self.grub is not None or self.append):
            raise SimulationFailed("a UKI has its own initrd and command line, and needs no GRUB")
        if not self.append.isascii() or not (self.append.isprintable() or not self.append):
            raise SimulationFailed("the command line on the disk is printable ASCII")


class FirmwareBoot:
    """Boots a disk and tells what is measured on the way."""

    def __init__(self, disk: Disk, hash_: RealmHash, device_tree: bytes) -> None:
        """``device_tree`` is what the VMM gave to the firmware, which measures it once more."""
        self._disk, self._hash, self._tree = disk, hash_, device_tree

    def measurements(self) -> tuple[Measured, ...]:
        """Return every measurement, in order; raise ``SimulationFailed`` for files that are no EFI programs."""
        return (*self._firmware(), *self._started(), *self._left())

    def _of(self, register: int, event_type: int, event: bytes, hashed: bytes | None = None) -> Measured:
        data = event if hashed is None else hashed
        return Measured(register, event_type, event, hashlib.new(self._hash.value, data).digest())

    # --- the firmware -------------------------------------------------------------------------------------------------

    def _firmware(self) -> Iterator[Measured]:
        yield self._of(FIRMWARE_REGISTER, _EV_S_CRTM_VERSION, _wide(_VERSION))
        tree_size = struct.unpack_from(">I", self._tree, 4)[0]
        yield self._of(FIRMWARE_REGISTER, _EV_NONHOST_CONFIG, b"Kvmtool FDT.", self._tree[:tree_size])
        certificate = self._disk.secure_boot
        state = b"\0" if certificate is None else b"\1"
        lists = b"" if certificate is None else _signature_list(certificate)
        for name, owner, data in (
            ("SecureBoot", _GLOBAL, state),
            ("PK", _GLOBAL, lists),
            ("KEK", _GLOBAL, lists),
            ("db", _SECURITY, lists),
            ("dbx", _SECURITY, b""),
        ):
            yield self._of(FIRMWARE_REGISTER, _EV_VARIABLE_DRIVER_CONFIG, _variable(name, owner, data))
        yield self._of(FIRMWARE_REGISTER, _EV_SEPARATOR, bytes(4))
        yield self._boot_variable("BootOrder", struct.pack("<H", 0))
        yield self._boot_variable("Boot0000", _load_option("disk", _path_of(self._first_file)))
        yield self._of(BOOT_REGISTER, _EV_ACTION_EFI, b"Calling EFI Application from Boot Option")
        yield self._of(BOOT_REGISTER, _EV_SEPARATOR, bytes(4))
        yield self._of(BOOT_REGISTER, _EV_GPT_EVENT, _partition_table())
        if certificate is not None:
            data = _OWNER.bytes_le + certificate
            yield self._of(FIRMWARE_REGISTER, _EV_VARIABLE_AUTHORITY, _variable("db", _SECURITY, data))

    def _boot_variable(self, name: str, data: bytes) -> Measured:
        return self._of(FIRMWARE_REGISTER, _EV_VARIABLE_BOOT, _variable(name, _GLOBAL, data), data)

    @property
    def _first_file(self) -> str:
        if self._disk.uki is not None:
            return "\\EFI\\Linux\\uki.efi"
        return "\\EFI\\BOOT\\BOOTAA64.EFI" if self._disk.grub is not None else "\\vmlinuz"

    def _application(self, name: str, program: bytes) -> Measured:
        path = _path_of(name)
        event = struct.pack("<QQQQ", _LOADED_AT, len(program), 0, len(path)) + path
        return Measured(BOOT_REGISTER, _EV_APPLICATION, event, _authenticode(name, program, self._hash))

    def _left(self) -> Iterator[Measured]:
        yield self._of(BOOT_REGISTER, _EV_ACTION_EFI, b"Exit Boot Services Invocation")
        yield self._of(BOOT_REGISTER, _EV_ACTION_EFI, b"Exit Boot Services Returned with Success")

    # --- what it starts -----------------------------------------------------------------------------------------------

    def _started(self) -> Iterator[Measured]:
        if self._disk.uki is not None:
            yield from self._unified(self._disk.uki)
        elif self._disk.grub is not None:
            yield from self._grub(self._disk.grub, self._disk.kernel or b"")
        else:
            yield self._application(self._first_file, self._disk.kernel or b"")
            yield from self._linux(_wide(self._disk.append), self._disk.initrd)

    def _linux(self, options: bytes, initrd: bytes | None) -> Iterator[Measured]:
        """Linux's EFI stub: load options without their text, and the initrd that it was given."""
        yield self._tagged(_TAG_LOAD_OPTIONS, b"LOADED_IMAGE::LoadOptions\0", options)
        if initrd is not None:
            yield self._tagged(_TAG_INITRD, b"Linux initrd\0", initrd)

    def _tagged(self, tag: int, text: bytes, hashed: bytes) -> Measured:
        return self._of(SYSTEM_REGISTER, _EV_EVENT_TAG, struct.pack("<II", tag, len(text)) + text, hashed)

    def _grub(self, program: bytes, kernel: bytes) -> Iterator[Measured]:
        """GRUB measures its commands and every file that it reads, and starts the kernel through the firmware."""
        line = f"/vmlinuz {self._disk.append}".rstrip(" ")
        configuration = f"linux {line}\n" + ("initrd /initrd.img\n" if self._disk.initrd is not None else "")
        yield self._application(self._first_file, program)
        yield self._file("/EFI/BOOT/grub.cfg", configuration.encode())
        yield from self._said("grub_cmd: ", f"linux {line}")
        yield self._file("/vmlinuz", kernel)
        yield from self._said("kernel_cmdline: ", line)
        if self._disk.initrd is not None:
            yield from self._said("grub_cmd: ", "initrd /initrd.img")
            yield self._file("/initrd.img", self._disk.initrd)
        yield self._application("\\vmlinuz", kernel)
        yield from self._linux(_wide(f"BOOT_IMAGE={line}")[:-2], self._disk.initrd)

    def _file(self, name: str, content: bytes) -> Measured:
        return self._of(SYSTEM_REGISTER, _EV_IPL, f"{_GRUB_DEVICE}{name}".encode() + b"\0", content)

    def _said(self, prefix: str, text: str) -> Iterator[Measured]:
        yield self._of(SYSTEM_REGISTER, _EV_IPL, f"{prefix}{text}".encode() + b"\0", text.encode())

    def _unified(self, program: bytes) -> Iterator[Measured]:
        """systemd-stub measures names and contents of its sections, and gives what they hold to the kernel."""
        yield self._application(self._first_file, program)
        uki = _pe_facts("the UKI", program).uki
        algorithm = _ALGORITHMS[self._hash]
        if uki is None:
            raise SimulationFailed("the UKI has no sections of a UKI")
        sections = {section.name: section for section in uki.sections}
        for name in (name for name in _STUB_ORDER if name in sections):
            logged = _wide(name)
            yield self._of(SYSTEM_REGISTER, _EV_IPL, logged, name.encode() + b"\0")
            yield Measured(SYSTEM_REGISTER, _EV_IPL, logged, sections[name].digests[algorithm])
        line = sections[".cmdline"].text if ".cmdline" in sections else None
        yield self._tagged(_TAG_LOAD_OPTIONS, b"LOADED_IMAGE::LoadOptions\0", _wide(" ".join((line or "").split())))
        initrd = uki.initrds[0] if uki.initrds else None
        if initrd is not None:
            yield Measured(SYSTEM_REGISTER, _EV_EVENT_TAG, struct.pack("<II", _TAG_INITRD, 13) + b"Linux initrd\0", initrd[algorithm])


_ALGORITHMS = {
    RealmHash.SHA256: HashAlgorithm.SHA256,
    RealmHash.SHA384: HashAlgorithm.SHA384,
    RealmHash.SHA512: HashAlgorithm.SHA512,
}


def _pe_facts(name: str, program: bytes) -> PeFacts:
    """Read the EFI program; raise ``SimulationFailed`` if no firmware would start it."""
    view = memoryview(program)
    try:
        reader = PartsReader(view, len(view), DEFAULT_LIMITS)
        reader.update(view)
        facts, _ = reader.finish()
    except MalformedEvidence as error:
        raise SimulationFailed(f"{name} is no EFI program: {error}") from None
    if facts is None:
        raise SimulationFailed(f"{name} is no EFI program")
    return facts


def _authenticode(name: str, program: bytes, hash_: RealmHash) -> bytes:
    return _pe_facts(name, program).authenticode[_ALGORITHMS[hash_]]


# --- structures of UEFI 2.11 (10.3, 3.1.3, 32.4.1) and PC Client PFP 1.06 (10.4) ------------------------------------------


def _wide(text: str) -> bytes:
    return text.encode("utf-16-le") + b"\0\0"


def _variable(name: str, owner: uuid.UUID, data: bytes) -> bytes:
    """UEFI_VARIABLE_DATA; the name has no NUL."""
    wide = name.encode("utf-16-le")
    return owner.bytes_le + struct.pack("<QQ", len(name), len(data)) + wide + data


def _node(kind: tuple[int, int], data: bytes) -> bytes:
    return struct.pack("<BBH", *kind, 4 + len(data)) + data


def _path_of(file: str) -> bytes:
    return _node(_FILE_PATH, _wide(file)) + _node(_END, b"")


def _load_option(description: str, path: bytes) -> bytes:
    return struct.pack("<IH", 1, len(path)) + _wide(description) + path


def _partition_table() -> bytes:
    """UEFI_GPT_DATA of a disk with one EFI system partition (UEFI 2.11 section 5.3)."""
    first, last = 2048, 1 << 20
    entry = _SYSTEM_PARTITION.bytes_le + _OWNER.bytes_le + struct.pack("<QQQ", first, last, 0) + _wide("EFI system").ljust(72, b"\0")
    header = _GPT_HEADER.pack(b"EFI PART", 1 << 16, 92, 0, 1, last + 34, 34, last + 1, _OWNER.bytes_le, 2, 128, len(entry), 0)
    return header + struct.pack("<Q", 1) + entry


def _signature_list(certificate: bytes) -> bytes:
    entry = 16 + len(certificate)
    return _X509.bytes_le + struct.pack("<III", 28 + entry, 0, entry) + _OWNER.bytes_le + certificate
