"""Describing events: structures decode within bounds, malformed ones are refused, nothing unprintable gets out."""

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence import tcg_names as names
from kbs_rim.evidence.printable import hex_preview, printable, printable_bytes
from kbs_rim.evidence.tcg_events import describe_event
from kbs_rim.evidence.tcg_log import LogKind, TcgEvent, guess_kind, parse_tcg_log
from kbs_rim.evidence.tcg_structures import parse_device_path, parse_gpt, parse_variable
from kbs_rim.limits import Limits

LOGS = Path(__file__).parent.parent / "vectors" / "logs"
REAL = sorted(
    path for folder in ("tpm", "ccel") for path in (LOGS / folder).iterdir() if "table" not in path.name and "bogus" not in path.name
)
GUID = bytes.fromhex("61dfe48bca93d211aa0d00e098032b8c")
END_NODE = bytes.fromhex("7fff0400")


def event(event_type: int, data: bytes, index: int = 0, digest: bytes = b"\x01" * 32) -> TcgEvent:
    return TcgEvent(3, 100, index, event_type, {0xB: digest}, data)


def text_of(event_type: int, data: bytes, kind: LogKind = LogKind.TPM) -> str:
    return describe_event(event(event_type, data), kind).text


def variable(name: str, data: bytes) -> bytes:
    wide = name.encode("utf-16-le")
    return GUID + struct.pack("<QQ", len(wide) // 2, len(data)) + wide + data


def blob2(description: bytes, base: int = 0x1000, size: int = 0x2000) -> bytes:
    return bytes([len(description)]) + description + struct.pack("<QQ", base, size)


def image_load(path: bytes) -> bytes:
    return struct.pack("<QQQQ", 0x7F000000, 0x1000, 0, len(path)) + path


def gpt(entries: list[bytes], entry_size: int = 128, count: int | None = None) -> bytes:
    header = b"EFI PART".ljust(80, b"\0") + struct.pack("<II", 128, entry_size) + bytes(4)
    return header + struct.pack("<Q", len(entries) if count is None else count) + b"".join(entries)


def partition(name: str) -> bytes:
    return struct.pack("<16s16sQQQ72s", GUID, bytes(16), 34, 100, 0, name.encode("utf-16-le"))


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.name)
def test_every_event_of_a_real_log_is_described(path):
    data = path.read_bytes()
    kind = LogKind.CC if path.parent.name == "ccel" else LogKind.TPM
    for item in parse_tcg_log(data, kind, allow_legacy=kind is LogKind.TPM).events:
        description = describe_event(item, kind)
        assert description.type_name.startswith("EV_")
        assert description.text.isprintable()
        assert all(value.isprintable() for value in description.fields.values() if isinstance(value, str))


@pytest.mark.parametrize(
    ("event_type", "data", "text"),
    [
        (names.EV_SEPARATOR, bytes(4), "separator"),
        (names.EV_SEPARATOR, bytes(3), "separator of an error: 3 bytes: 000000"),
        (names.EV_POST_CODE, b"ACPI DATA", "ACPI DATA"),
        (names.EV_POST_CODE, struct.pack("<QQ", 0xFFA90000, 0x350000), "0xffa90000, 0x350000 bytes"),
        (names.EV_EFI_ACTION, b"Exit Boot Services Invocation", "Exit Boot Services Invocation"),
        (names.EV_S_CRTM_VERSION, "2.0".encode("utf-16-le") + b"\0\0", "firmware version 2.0"),
        (names.EV_S_CRTM_VERSION, b"\0\0", "empty firmware version"),
        (names.EV_S_CRTM_VERSION, GUID, f"firmware version 16 bytes: {GUID.hex()}"),
        (names.EV_IPL, b"grub_cmd: set a=b\0", "grub_cmd: set a=b"),
        (names.EV_IPL, b"grub_cmd set a=b\0#", "grub_cmd set a=b"),
        (names.EV_IPL, ".linux".encode("utf-16-le") + b"\0\0", ".linux"),
        (names.EV_IPL, b"\xff\xfe", "2 bytes: fffe"),
        (names.EV_IPL, b"", "empty"),
        (names.EV_EFI_PLATFORM_FIRMWARE_BLOB, struct.pack("<QQ", 1, 2), "0x1, 0x2 bytes"),
        (names.EV_EFI_PLATFORM_FIRMWARE_BLOB2, blob2(b"Fv(X)\0"), "Fv(X): 0x1000, 0x2000 bytes"),
        (names.EV_EFI_VARIABLE_BOOT, variable("BootOrder", b"\1\0"), "BootOrder (EFI global variable): 2 bytes: 0100"),
        (names.EV_EFI_VARIABLE_AUTHORITY, variable("Shim", b"x") + bytes(6), "Shim (EFI global variable): 1 bytes: 78"),
        (names.EV_EFI_BOOT_SERVICES_APPLICATION, image_load(b""), "no device path, 0x1000 bytes at 0x7f000000"),
        (
            names.EV_EFI_BOOT_SERVICES_APPLICATION,
            image_load(b"\x04\x04\x0a\0\\\0a\0\0\0" + END_NODE),
            "\\a, 0x1000 bytes at 0x7f000000",
        ),
        (names.EV_EFI_GPT_EVENT, gpt([partition("EFI"), bytes(128)]), "1 partitions: EFI"),
        (names.EV_EFI_HANDOFF_TABLES, struct.pack("<Q16sQ", 1, GUID, 16), "EFI global variable at 0x10"),
        (names.EV_EFI_HANDOFF_TABLES2, b"\x02T\0" + struct.pack("<Q16sQ", 1, GUID, 16), "T: EFI global variable at 0x10"),
        (names.EV_NO_ACTION, b"StartupLocality\0\x03", "startup locality 3"),
        (names.EV_NO_ACTION, b"SP800-155 Event3....", "not measured: SP800-155 Event3"),
        (names.EV_EVENT_TAG, struct.pack("<II", 0x8F3B22EC, 13) + b"Linux initrd\0", "Linux EFI stub: initrd: Linux initrd"),
        (names.EV_EVENT_TAG, struct.pack("<II", 1, 1) + b"x", "tag 0x00000001: x"),
        (names.EV_EVENT_TAG, b"LOADED_IMAGE::LoadOptions\0", "Linux EFI stub: LOADED_IMAGE::LoadOptions"),
        (0x80000123, b"vendor", "vendor"),
    ],
)  # fmt: skip
def test_text_of_well_formed_events(event_type, data, text):
    digest = bytes(32) if event_type == names.EV_NO_ACTION else b"\x01" * 32
    assert describe_event(event(event_type, data, digest=digest), LogKind.TPM).text == text


def test_rim_tags_are_decoded_in_vmm_logs_only():
    create = struct.pack("<II", 1, 16) + struct.pack("<QBBBBBB2x", 6, 41, 1, 5, 3, 6, 0)
    fields = describe_event(event(names.EV_EVENT_TAG, create), LogKind.VMM).fields
    raw = {"flags": 6, "s2sz": 41, "sve_vl": 1, "num_bps": 5, "num_wps": 3, "pmu_num_ctrs": 6, "hash_algo": 0}
    assert fields == {"tag": 1, "operation": "REALM_CREATE", **raw}
    assert describe_event(event(names.EV_EVENT_TAG, create), LogKind.CC).text.startswith("tag 0x00000001")
    ripas = struct.pack("<IIQQ", 2, 16, 0x40000000, 0x1000)
    assert text_of(names.EV_EVENT_TAG, ripas, LogKind.VMM) == "RAM: 0x40000000, 0x1000 bytes"
    rec = struct.pack("<IIQQ8Q", 3, 80, 1, 0x40000000, 0x48200000, *range(7))
    assert text_of(names.EV_EVENT_TAG, rec, LogKind.VMM) == "create vCPU: flags 0x1, pc 0x40000000, x0 0x48200000"


def test_vm_version_of_the_emitters_is_described():
    data = struct.pack("<16s32s40sQI4xQ", b"VM VERSION", b"QEMU", b"9.1", 1 << 29, 2, 0)
    description = describe_event(event(names.EV_NO_ACTION, data, digest=bytes(32)), LogKind.VMM)
    assert description.text == "QEMU 9.1, 2 CPUs, 0x20000000 bytes of RAM"
    assert description.fields["layout"] == "emitter"


@pytest.mark.parametrize(
    ("event_type", "data"),
    [
        (names.EV_EFI_PLATFORM_FIRMWARE_BLOB, bytes(15)),
        (names.EV_EFI_PLATFORM_FIRMWARE_BLOB, bytes(17)),
        (names.EV_POST_CODE2, b""),
        (names.EV_POST_CODE2, blob2(b"KERNEL")[:-1]),
        (names.EV_POST_CODE2, blob2(b"KERNEL") + b"\0"),
        (names.EV_POST_CODE2, b"\xff" + bytes(20)),
        (names.EV_EFI_VARIABLE_DRIVER_CONFIG, bytes(5)),
        (names.EV_EFI_VARIABLE_DRIVER_CONFIG, bytes(31)),
        (names.EV_EFI_VARIABLE_DRIVER_CONFIG, GUID + struct.pack("<QQ", 1 << 63, 0)),
        (names.EV_EFI_VARIABLE_DRIVER_CONFIG, GUID + struct.pack("<QQ", 0, (1 << 64) - 1)),
        (names.EV_EFI_VARIABLE_AUTHORITY, variable("Shim", b"x") + bytes(17)),
        (names.EV_EFI_VARIABLE_BOOT, variable("Boot0001", b"abc")[:-1]),
        (names.EV_EFI_BOOT_SERVICES_APPLICATION, bytes(31)),
        (names.EV_EFI_BOOT_SERVICES_APPLICATION, image_load(b"\x01")),
        (names.EV_EFI_BOOT_SERVICES_APPLICATION, image_load(b"\x04\x04\x03\0")),
        (names.EV_EFI_BOOT_SERVICES_APPLICATION, image_load(b"\x04\x04\x00\0")),
        (names.EV_EFI_BOOT_SERVICES_APPLICATION, image_load(b"\x04\x04\xff\xff")),
        (names.EV_EFI_BOOT_SERVICES_APPLICATION, image_load(b"\x04\x04\x04\0")),
        (names.EV_EFI_BOOT_SERVICES_APPLICATION, image_load(END_NODE + b"\0")),
        (names.EV_EFI_BOOT_SERVICES_DRIVER, image_load(b"\x01\x01\x04\0" * 65 + END_NODE)),
        (names.EV_EFI_GPT_EVENT, gpt([])[:99]),
        (names.EV_EFI_GPT_EVENT, gpt([], entry_size=0, count=1)),
        (names.EV_EFI_GPT_EVENT, gpt([], entry_size=64, count=0)),
        (names.EV_EFI_GPT_EVENT, gpt([], entry_size=8192, count=0)),
        (names.EV_EFI_GPT_EVENT, gpt([partition("x")], count=1 << 63)),
        (names.EV_EFI_GPT_EVENT, gpt([partition("x")])[:-1]),
        (names.EV_EFI_GPT_EVENT, gpt([]).replace(b"EFI PART", b"EFI TRAP")),
        (names.EV_EFI_HANDOFF_TABLES, bytes(7)),
        (names.EV_EFI_HANDOFF_TABLES, struct.pack("<Q", 1 << 61)),
        (names.EV_EFI_HANDOFF_TABLES2, b""),
        (names.EV_EFI_HANDOFF_TABLES2, b"\xff"),
        (names.EV_EFI_HANDOFF_TABLES2, b"\0" + struct.pack("<Q", 2) + bytes(24)),
        (names.EV_EVENT_TAG, bytes(7)),
        (names.EV_EVENT_TAG, struct.pack("<II", 1, 0xFFFFFFFF) + bytes(16)),
        (names.EV_EVENT_TAG, struct.pack("<II", 1, 1)),
        (names.EV_NO_ACTION, b"StartupLocality\0\x01"),
        (names.EV_NO_ACTION, b"VM VERSION\0\0\0\0\0\0"),
    ],
)  # fmt: skip
def test_malformed_structures_are_refused(event_type, data):
    digest = bytes(32) if event_type == names.EV_NO_ACTION else b"\x01" * 32
    with pytest.raises(MalformedEvidence) as caught:
        describe_event(event(event_type, data, digest=digest), LogKind.TPM)
    assert caught.value.finding_id == "log.event-data"
    assert caught.value.offset == 100
    assert "record 3" in caught.value.message


def test_device_path_of_4_byte_nodes_is_no_recursion():
    """A restatement of this in a recursive reader overflows the stack (D18)."""
    path = b"\x01\x01\x04\0" * 200_000 + END_NODE
    assert len(parse_device_path(path, max_nodes=200_000)) == 200_000
    with pytest.raises(MalformedEvidence, match="too many nodes"):
        describe_event(event(names.EV_EFI_BOOT_SERVICES_DRIVER, image_load(path)), LogKind.TPM, Limits(device_path_nodes=64))


def test_gpt_and_variable_fields():
    assert [(item.name, item.first_block, item.last_block) for item in parse_gpt(gpt([partition("root")]))] == [("root", 34, 100)]
    assert parse_gpt(gpt([partition("root").ljust(256, b"\0")], entry_size=256))[0].name == "root"
    decoded = parse_variable(variable("db", b"\1\2"))
    assert (decoded.guid, decoded.name, decoded.data) == ("8be4df61-93ca-11d2-aa0d-00e098032b8c", "db", b"\1\2")


def test_measured_digest_of_zeros_is_refused():
    with pytest.raises(MalformedEvidence) as caught:
        describe_event(event(names.EV_IPL, b"a: ", digest=bytes(32)), LogKind.TPM)
    assert caught.value.finding_id == "log.digests"


@pytest.mark.parametrize(
    ("event_type", "data"),
    [
        (names.EV_IPL, b"\x1b]0;owned\x07\0"),
        (names.EV_EFI_ACTION, b"\x1b[2Jgone"),
        (names.EV_EFI_ACTION, "\u202egnp.exe".encode()),
        (names.EV_EFI_PLATFORM_FIRMWARE_BLOB2, blob2(b"\x1b[31mKERNEL\r\n")),
        (names.EV_EFI_VARIABLE_BOOT, variable("\x1b[2J\u202e", b"")),
        (names.EV_EFI_GPT_EVENT, gpt([partition("\x1b[2J\n")])),
        (names.EV_EFI_HANDOFF_TABLES2, b"\x05\x1b[2J\n" + struct.pack("<Q", 0)),
        (names.EV_EFI_BOOT_SERVICES_APPLICATION, image_load(b"\x04\x04\x0a\0\x1b\0[\0\0\0" + END_NODE)),
        (names.EV_EVENT_TAG, struct.pack("<II", 9, 5) + b"\x1b[2J\n"),
        (names.EV_S_CRTM_VERSION, "\x1b[2J".encode("utf-16-le") + b"\0\0"),
    ],
)  # fmt: skip
def test_terminal_escapes_in_a_log_stay_inert(event_type, data):
    description = describe_event(event(event_type, data), LogKind.TPM)
    assert description.text.isprintable()
    assert all(value.isprintable() for value in description.fields.values() if isinstance(value, str))


@given(st.sampled_from([*names.EVENT_TYPES, 0x12345]), st.binary(max_size=300), st.sampled_from(list(LogKind)))
def test_any_data_of_any_type_is_described_or_refused(event_type, data, kind):
    try:
        text = describe_event(event(event_type, data), kind).text
    except MalformedEvidence as error:
        text = error.message
        assert error.finding_id == "log.event-data"  # noqa: PT017
    assert text.isprintable()


@given(st.sampled_from([b"StartupLocality\0", b"VM VERSION\0\0\0\0\0\0"]), st.binary(max_size=120))
def test_any_no_action_is_described_or_refused(signature, data):
    try:
        text = describe_event(event(names.EV_NO_ACTION, signature + data, digest=bytes(32)), LogKind.VMM).text
    except MalformedEvidence as error:
        text = error.message
    assert text.isprintable()


@given(st.text())
def test_printable_text_prints_and_keeps_what_prints(text):
    shown = printable(text, limit=50)
    assert shown.isprintable()
    assert len(shown) <= 53
    if text.isprintable() and len(text) <= 50:
        assert shown == text


@given(st.binary(max_size=2000))
def test_printable_bytes_print(data):
    assert printable_bytes(data).isprintable()
    assert hex_preview(data).isprintable()


def test_escapes_are_those_of_python():
    assert printable("a\x1b\u202e\U000e0001\ud800") == "a\\x1b\\u202e\\U000e0001\\ud800"


def test_kind_of_real_logs():
    assert {path.name: guess_kind(path.read_bytes()) for path in REAL if path.parent.name == "tpm"} == {
        path.name: LogKind.TPM for path in REAL if path.parent.name == "tpm"
    }
