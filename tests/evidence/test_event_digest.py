"""What digests are hashes of: every event of every real log is explained, and no lie is."""

import dataclasses
import hashlib
import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_forge import SHA1, SHA256, SHA384, SM3, ima_legacy, ima_ng, ima_record, tagged

from kbs_rim.evidence.event_digest import DigestKind, Material, rederive
from kbs_rim.evidence.event_log import (
    CelManagement,
    ImaTemplate,
    Management,
    MeasuredEvent,
    OpaqueContent,
    RegisterKind,
    TcgContent,
    event_log_from_tcg,
)
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.evidence.ima_log import ImaBank, in_bank, parse_ima_log
from kbs_rim.evidence.tcg_log import LogKind, parse_tcg_log
from kbs_rim.evidence.tcg_names import EVENT_TYPES, TPM_ALGORITHMS

VECTORS = Path(__file__).parent.parent / "vectors"
BOOTS = sorted((VECTORS / "images" / "measured-boot").glob("*/oracle.json"))
REAL = [
    (path, kind)
    for folder, kind in (("ccel", LogKind.CC), ("tpm", LogKind.TPM))
    for path in sorted((VECTORS / "logs" / folder).iterdir())
    if "table" not in path.name and "bogus" not in path.name
]
EXTERNAL, RECOMPUTED, CONSTANT, NONE = DigestKind.EXTERNAL, DigestKind.RECOMPUTED, DigestKind.CONSTANT, DigestKind.NONE
BANKS = {"sha1": 0x4, "sha256": 0xB, "sha384": 0xC, "sha512": 0xD}

# What stands in an oracle's ``source`` -> how we know the digest.
SOURCES = (
    ("not measured", NONE, None),
    ("H(event data)", None, None),
    ("H(whole UEFI_VARIABLE_DATA)", RECOMPUTED, None),
    ("H(variable data only)", RECOMPUTED, None),
    ("H(ASCII section name", RECOMPUTED, None),
    ("H(one byte 01)", CONSTANT, None),
    ("H(first min(VirtualSize", EXTERNAL, Material.SECTION),
    ("Authenticode of ", EXTERNAL, Material.PE_IMAGE),
    ("H(qemu-efi-aarch64", EXTERNAL, Material.FIRMWARE),
    ("H(fw_cfg file", EXTERNAL, Material.ACPI),
    ("H(UTF-16LE of ", EXTERNAL, Material.LOAD_OPTIONS),
    ("H(test initrd", EXTERNAL, Material.INITRD),
    ("H(.ucode + test initrd", EXTERNAL, Material.INITRD),
    ("H(EFI_SIGNATURE_LIST of", EXTERNAL, Material.MOK_LIST),
    ("H(deauthorized part of", EXTERNAL, Material.MOK_LIST),
)


def event(event_type: int, data: bytes, hashed: bytes | None = None, register: int = 8, algorithm: int = SHA256) -> MeasuredEvent:
    """An event whose digest is the hash of ``hashed``, by default of its data."""
    digest = hashlib.new(TPM_ALGORITHMS[algorithm].hashlib_name, data if hashed is None else hashed).digest()
    return MeasuredEvent(0, register, RegisterKind.PCR, "", {algorithm: digest}, TcgContent(event_type, data), measured=event_type != 3)


def variable(name: str, data: bytes, guid: bytes = bytes(16)) -> bytes:
    return struct.pack("<16sQQ", guid, len(name), len(data)) + name.encode("utf-16-le") + data


# Real logs


@pytest.mark.parametrize("boot", BOOTS, ids=lambda path: path.parent.name)
@pytest.mark.parametrize("bank", BANKS)
def test_every_event_of_a_measured_boot_is_what_its_oracle_says(boot, bank):
    oracle = json.loads(boot.read_text())["events"][1:]  # the first is the Spec ID
    log = event_log_from_tcg(parse_tcg_log((boot.parent / "log.bin").read_bytes(), LogKind.TPM))
    assert len(oracle) == len(log.events)
    for said, measured in zip(oracle, log.events, strict=True):
        found = rederive(measured, BANKS[bank])
        if said["source"] is None:
            assert (found.kind, found.material, said["type"]) == (EXTERNAL, Material.SMBIOS, "EV_EVENT_TAG")
            continue
        kind, material = next((kind, material) for start, kind, material in SOURCES if said["source"].startswith(start))
        assert found.kind is kind or (kind is None and found.kind in (RECOMPUTED, CONSTANT))
        assert found.material is material
        assert found.matches is (True if found.kind in (RECOMPUTED, CONSTANT) else None)


@pytest.mark.parametrize("boot", BOOTS, ids=lambda path: path.parent.name)
def test_names_of_sections_are_those_of_the_oracle(boot):
    for said, measured in zip(json.loads(boot.read_text())["events"][1:], _events(boot.parent / "log.bin", LogKind.TPM), strict=True):
        if said["pcr"] == 11:
            name = said["source"].split("'")[1] if "'" in said["source"] else said["source"].rsplit(" ", 1)[1].rstrip(")")
            assert rederive(measured, SHA256).what.endswith(f" of section {name}")


def _events(path: Path, kind: LogKind) -> tuple[MeasuredEvent, ...]:
    return event_log_from_tcg(parse_tcg_log(path.read_bytes(), kind, allow_legacy=kind is LogKind.TPM)).events


@pytest.mark.parametrize(("path", "kind"), REAL, ids=lambda value: value.name if isinstance(value, Path) else "")
def test_every_measured_event_of_every_real_log_is_explained(path, kind):
    for measured in _events(path, kind):
        if not measured.measured:
            continue
        found = {rederive(measured, identifier) for identifier in measured.digests}
        known = {name for name, algorithm in TPM_ALGORITHMS.items() if algorithm.hashlib_name in hashlib.algorithms_available}
        if not set(measured.digests) <= known:
            continue  # SM3 is not in every crypto library
        assert len(found) == 1
        assert found.pop().matches is not False
        assert all(rederive(measured, identifier).kind is not NONE for identifier in measured.digests)


@pytest.mark.parametrize(("path", "kind"), REAL, ids=lambda value: value.name if isinstance(value, Path) else "")
def test_another_digest_is_never_recomputed(path, kind):
    """With each digest changed in one bit nothing real may still match; what cannot be computed again stays external."""
    for measured in _events(path, kind):
        wrong = {identifier: bytes([digest[0] ^ 1]) + digest[1:] for identifier, digest in measured.digests.items()}
        for identifier in wrong:
            assert rederive(dataclasses.replace(measured, digests=wrong), identifier).matches is not True


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("CCEL_AAEL_alibabacloud", (69, 6, 12)),
        ("CCEL_data.tdshim.first16k", (2, 2, 1)),
        ("cos-113-intel-tdx.bin", (26, 6, 11)),
        ("CCEL_data_grub_gke", (15, 5, 13)),
    ],
)
def test_counts_of_real_logs(name, counts):
    kinds = [rederive(measured, SHA384).kind for measured in _events(VECTORS / "logs" / "ccel" / name, LogKind.CC)]
    assert tuple(kinds.count(kind) for kind in (RECOMPUTED, CONSTANT, EXTERNAL)) == counts


# By type


@pytest.mark.parametrize(
    ("event_type", "data", "hashed", "kind", "what"),
    [
        (0x04, bytes(4), None, CONSTANT, "separator"),
        (0x04, b"\xff" * 4, None, CONSTANT, "separator"),
        (0x04, bytes(4), b"\1\0\0\0", CONSTANT, "separator of an error"),
        (0x04, b"\2\0\0\0", None, RECOMPUTED, "a separator"),
        (0x05, b"Booting", None, RECOMPUTED, "event data"),
        (0x80000007, b"Exit Boot Services Invocation", None, CONSTANT, "a well-known action"),
        (0x0D, b"grub_cmd: boot\0", b"boot", RECOMPUTED, "GRUB command"),
        (0x0D, b"grub_cmd: \0", b"", RECOMPUTED, "GRUB command"),
        (0x0D, b"grub_cmd boot\0\7", b"boot\0", RECOMPUTED, "GRUB command with NUL"),
        (0x0D, b"grub_kernel_cmdline ro\0\7", b"ro", RECOMPUTED, "kernel command line"),
        (0x0D, b"kernel_cmdline: ro\0", b"ro", RECOMPUTED, "kernel command line"),
        (0x0D, b"module_cmdline: x\0", b"x", RECOMPUTED, "module command line"),
        (0x0D, "ro quiet\0".encode("utf-16-le"), None, RECOMPUTED, "event data"),
        (0x0D, "ro\0".encode("utf-16-le")[:-1], "ro\0".encode("utf-16-le"), RECOMPUTED, "event data with the rest of a NUL"),
        (0x0D, b"enter-initrd\0", b"enter-initrd", RECOMPUTED, "event data without NUL"),
        (0x0D, "initrd cpio\0".encode("utf-16-le"), b"cpio", EXTERNAL, "file initrd cpio"),
        (0x0D, b"/boot/initrd.img\0", b"file", EXTERNAL, "file /boot/initrd.img"),
        (0x0D, b"\xff\xfe\0", b"file", NONE, "what was hashed is not known"),
        (0x0D, b"\x1b[2J\0", b"file", NONE, "what was hashed is not known"),
        (0x0D, b"", b"file", NONE, "what was hashed is not known"),
        (0x0D, b"MokListTrusted\0", b"\1", CONSTANT, "MokListTrusted is 1"),
        (0x0D, b"MokListTrusted\0", b"\2", EXTERNAL, "contents of MokListTrusted"),
        (0x80000002, variable("BootOrder", b"\1\0"), b"\1\0", RECOMPUTED, "data of the variable"),
        (0x80000002, variable("BootOrder", b"\1\0"), None, RECOMPUTED, "event data"),
        (0x8000000C, variable("BootOrder", b"\1\0"), None, RECOMPUTED, "event data"),
        (0x800000E0, variable("Shim", b"cert"), None, RECOMPUTED, "event data"),
        (0x800000E0, variable("Shim", b"cert") + b"\7", variable("Shim", b"cert"), RECOMPUTED, "event data less a stray byte"),
        (0x0A, b"td_hob".ljust(16, b"\0") + struct.pack("<I", 3) + b"hob", b"hob", RECOMPUTED, "event data behind name and length"),
        (0x0A, b"setup", None, RECOMPUTED, "event data"),
        (0x0A, b"setup", b"x", NONE, "what was hashed is not known"),
        (0x10, b"Kvmtool FDT.", b"tree", EXTERNAL, "device tree"),
        (0x10, b"vendor", b"x", NONE, "what was hashed is not known"),
        (0x06, tagged(0x4141454C, b"d o c"), None, RECOMPUTED, "tag, length and line"),
        (0x06, tagged(0x12345678, b"data"), None, RECOMPUTED, "event data"),
        (0x06, tagged(0x12345678, b"data"), b"data", RECOMPUTED, "data of the tagged event"),
        (0x06, tagged(0x12345678, b"data"), b"x", NONE, "what was hashed is not known"),
        (0x06, b"LOADED_IMAGE::LoadOptions\0", b"x", EXTERNAL, "load options of the kernel, in UTF-16"),
        (0x0B, b"table", None, RECOMPUTED, "event data"),
        (0x0C, b"short", b"x", NONE, "what was hashed is not known"),
        (0x8000000D, b"gpt", None, RECOMPUTED, "event data"),
        (0x800000E1, b"spdm", b"x", EXTERNAL, "a device's firmware"),
        (0x00001234, b"new", b"x", NONE, "what was hashed is not known"),
    ],
)  # fmt: skip
def test_digest_by_type(event_type, data, hashed, kind, what):
    found = rederive(event(event_type, data, hashed), SHA256)
    assert (found.kind, found.what) == (kind, what)
    if kind in (RECOMPUTED, CONSTANT) and what != "a separator":
        assert found.matches


@pytest.mark.parametrize(
    ("event_type", "data"),
    [
        (0x04, bytes(4)),
        (0x05, b"action"),
        (0x06, tagged(0x4141454C, b"d o c")),
        (0x08, "1.0\0".encode("utf-16-le")),
        (0x0D, b"grub_cmd: boot\0"),
        (0x0D, b"kernel_cmdline: ro\0"),
        (0x80000001, variable("SecureBoot", b"\1")),
        (0x80000002, variable("Boot0000", b"\1")),
        (0x80000006, b"EFI PART"),
        (0x80000007, b"Exit Boot Services Invocation"),
        (0x800000E0, variable("db", b"cert")),
    ],
)
def test_event_whose_data_were_replaced_does_not_match(event_type, data):
    found = rederive(event(event_type, data, b"what was really measured"), HashAlgorithm.SHA256)
    assert (found.kind, found.matches) == (RECOMPUTED, False)


def test_prefixes_are_not_measured():
    """A relabelled GRUB string matches like the honest one: it proves the string only."""
    assert rederive(event(0x0D, b"grub_cmd: ro quiet\0", b"ro quiet"), SHA256).matches
    assert rederive(event(0x0D, b"kernel_cmdline: ro quiet\0", b"ro quiet"), SHA256).matches


def test_what_is_not_measured_has_no_digest():
    assert rederive(event(0x03, b"StartupLocality\0\0"), SHA256).kind is NONE


def test_bank_that_the_event_does_not_have():
    assert rederive(event(0x04, bytes(4)), SHA384).what == "no digest of this algorithm"
    assert rederive(event(0x04, bytes(4)), 0x9999).what == "no digest of this algorithm"


def test_algorithm_that_the_crypto_library_lacks(monkeypatch):
    measured = event(0x04, bytes(4))
    monkeypatch.setattr(hashlib, "algorithms_available", {"sha1"})
    assert rederive(measured, SHA256).what == "sha256 cannot be computed here"


def test_images_of_a_vmm_log_are_for_the_rim():
    content = TcgContent(0x13, b"\x06KERNEL" + bytes(16))
    found = rederive(MeasuredEvent(0, 0, RegisterKind.RIM, "EV_POST_CODE2", {SHA256: bytes(32)}, content, measured=True), SHA256)
    assert (found.kind, found.material) == (EXTERNAL, Material.VMM_IMAGE)


def test_text_from_the_log_is_escaped():
    data = b"\x0b\x1b[2Jfirmware"[:12] + bytes(16)
    found = rederive(event(0x8000000A, data), SHA256)
    assert found.what.isprintable()
    assert "\\x1b[2J" in found.what


def image_load(path: str) -> bytes:
    node = path.encode("utf-16-le") + b"\0\0"
    nodes = struct.pack("<BBH", 4, 4, 4 + len(node)) + node + b"\x7f\xff\4\0"
    return struct.pack("<QQQQ", 0x1000, 0x2000, 0, len(nodes)) + nodes


def test_image_is_named_by_its_path():
    assert rederive(event(0x80000003, image_load("\\EFI\\BOOT\\x.efi")), SHA256).what == "Authenticode hash of \\EFI\\BOOT\\x.efi"
    assert "\x1b" not in rederive(event(0x80000003, image_load("\x1b]0;x")), SHA256).what


# Other contents


def test_entries_of_ima_in_every_bank():
    data, hashed = ima_legacy(b"/init", bytes(range(20)))
    raw = ima_record(b"ima-ng", ima_ng(b"/x")) + ima_record(b"ima", data, digest=hashlib.sha1(hashed).digest())
    log = in_bank(parse_ima_log(raw), HashAlgorithm.SHA512, ImaBank.HASHED)
    assert {rederive(entry, algorithm) for entry in log.events for algorithm in (SHA1, HashAlgorithm.SHA512)} == {
        dataclasses.replace(rederive(log.events[0], SHA1), kind=RECOMPUTED, matches=True, what="template data")
    }
    padded = in_bank(parse_ima_log(raw), HashAlgorithm.SHA256, ImaBank.PADDED)
    assert rederive(padded.events[0], SHA256).matches is False


def test_violation_of_ima_is_a_constant():
    log = parse_ima_log(ima_record(b"ima-ng", ima_ng(b"/x"), digest=bytes(20)))
    assert (rederive(log.events[0], SHA1).kind, rederive(log.events[0], SHA1).matches) == (CONSTANT, True)


def test_forged_file_hash_in_an_ima_entry():
    log = parse_ima_log(ima_record(b"ima-ng", ima_ng(b"/x"), digest=hashlib.sha1(ima_ng(b"/y")).digest()))
    assert rederive(log.events[0], SHA1).matches is False


def content_event(content, digest: bytes) -> MeasuredEvent:
    return MeasuredEvent(0, 16, RegisterKind.PCR, "", {SHA256: digest}, content, measured=True)


def test_vendor_content_of_a_cel():
    content = OpaqueContent(80, b"image")
    for hashed, what in ((b"image", "content"), (b"\x50\0\0\0\5image", "content with its head")):
        found = rederive(content_event(content, hashlib.sha256(hashed).digest()), SHA256)
        assert (found.kind, found.what) == (RECOMPUTED, what)
    assert rederive(content_event(content, bytes(32)), SHA256).kind is NONE


def test_management_of_a_cel_is_not_known():
    assert rederive(content_event(CelManagement(Management.CEL_TIMESTAMP, (1,)), b"\1" * 32), SHA256).kind is NONE


def test_template_without_data_is_not_known():
    assert rederive(content_event(ImaTemplate("evm-sig", b""), hashlib.sha256(b"").digest()), SHA256).kind is NONE


def test_malformed_data_are_not_known_and_raise_nothing():
    for event_type, data in ((0x06, b"\1"), (0x80000002, b"short"), (0x80000003, b"\0" * 31), (0x13, b"\x09x")):
        assert rederive(event(event_type, data, b"x"), SHA256).what == "event data that are malformed"
    assert rederive(content_event(ImaTemplate("ima", b"short"), bytes(32)), SHA256).kind is NONE


@given(st.sampled_from(sorted(EVENT_TYPES)) | st.integers(1, (1 << 32) - 1), st.binary(max_size=80), st.binary(max_size=20))
def test_nothing_a_log_can_hold_raises(event_type, data, hashed):
    for digest_of in (data, hashed):
        found = rederive(event(event_type, data, digest_of), SHA256)
        assert found.what.isprintable()
        assert (found.material is None) == (found.kind is not EXTERNAL)
        assert (found.matches is None) == (found.kind in (EXTERNAL, NONE))


@given(st.sampled_from(["ima", "ima-ng", "x"]), st.binary(max_size=60))
def test_no_ima_entry_raises(name, data):
    assert rederive(content_event(ImaTemplate(name, data), bytes(32)), SHA256).matches is not True


@pytest.mark.skipif("sm3" not in hashlib.algorithms_available, reason="the crypto library has no SM3")
def test_sm3_where_there_is_sm3():
    assert rederive(event(0x04, bytes(4), algorithm=SM3), SM3).kind is CONSTANT
