"""Names, numbers and sizes of TCG event logs, as tables.

Implements PC Client PFP 10.4 and the TCG algorithm registry: hash algorithms with their only legal digest size, event types, tagged
event ids, and the GUIDs that real logs name most often.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple


class TpmAlgorithm(NamedTuple):
    """A TPM_ALG_ID that may stand in a log: our name of the bank, the name hashlib knows, the digest size in bytes."""

    name: str
    hashlib_name: str
    digest_size: int


TPM_ALGORITHMS: Final[Mapping[int, TpmAlgorithm]] = MappingProxyType({
    0x0004: TpmAlgorithm("sha1", "sha1", 20),
    0x000B: TpmAlgorithm("sha256", "sha256", 32),
    0x000C: TpmAlgorithm("sha384", "sha384", 48),
    0x000D: TpmAlgorithm("sha512", "sha512", 64),
    0x0012: TpmAlgorithm("sm3", "sm3", 32),
    0x0027: TpmAlgorithm("sha3-256", "sha3_256", 32),
    0x0028: TpmAlgorithm("sha3-384", "sha3_384", 48),
    0x0029: TpmAlgorithm("sha3-512", "sha3_512", 64),
})  # fmt: skip
TPM_ALG_ERROR: Final = 0x0000
TPM_ALG_SHA1: Final = 0x0004

EV_PREBOOT_CERT: Final = 0x00
EV_POST_CODE: Final = 0x01
EV_NO_ACTION: Final = 0x03
EV_SEPARATOR: Final = 0x04
EV_ACTION: Final = 0x05
EV_EVENT_TAG: Final = 0x06
EV_S_CRTM_CONTENTS: Final = 0x07
EV_S_CRTM_VERSION: Final = 0x08
EV_CPU_MICROCODE: Final = 0x09
EV_PLATFORM_CONFIG_FLAGS: Final = 0x0A
EV_IPL: Final = 0x0D
EV_NONHOST_CODE: Final = 0x0F
EV_NONHOST_CONFIG: Final = 0x10
EV_NONHOST_INFO: Final = 0x11
EV_OMIT_BOOT_DEVICE_EVENTS: Final = 0x12
EV_POST_CODE2: Final = 0x13
EV_EFI_VARIABLE_DRIVER_CONFIG: Final = 0x80000001
EV_EFI_VARIABLE_BOOT: Final = 0x80000002
EV_EFI_BOOT_SERVICES_APPLICATION: Final = 0x80000003
EV_EFI_BOOT_SERVICES_DRIVER: Final = 0x80000004
EV_EFI_RUNTIME_SERVICES_DRIVER: Final = 0x80000005
EV_EFI_GPT_EVENT: Final = 0x80000006
EV_EFI_ACTION: Final = 0x80000007
EV_EFI_PLATFORM_FIRMWARE_BLOB: Final = 0x80000008
EV_EFI_HANDOFF_TABLES: Final = 0x80000009
EV_EFI_PLATFORM_FIRMWARE_BLOB2: Final = 0x8000000A
EV_EFI_HANDOFF_TABLES2: Final = 0x8000000B
EV_EFI_VARIABLE_BOOT2: Final = 0x8000000C
EV_EFI_GPT_EVENT2: Final = 0x8000000D
EV_EFI_VARIABLE_AUTHORITY: Final = 0x800000E0
EV_EFI_SPDM_FIRMWARE_BLOB: Final = 0x800000E1
EV_EFI_SPDM_FIRMWARE_CONFIG: Final = 0x800000E2
EV_EFI_SPDM_DEVICE_POLICY: Final = 0x800000E3
EV_EFI_SPDM_DEVICE_AUTHORITY: Final = 0x800000E4

EVENT_TYPES: Final[Mapping[int, str]] = MappingProxyType({
    EV_PREBOOT_CERT: "EV_PREBOOT_CERT",
    EV_POST_CODE: "EV_POST_CODE",
    0x02: "EV_UNUSED",
    EV_NO_ACTION: "EV_NO_ACTION",
    EV_SEPARATOR: "EV_SEPARATOR",
    EV_ACTION: "EV_ACTION",
    EV_EVENT_TAG: "EV_EVENT_TAG",
    EV_S_CRTM_CONTENTS: "EV_S_CRTM_CONTENTS",
    EV_S_CRTM_VERSION: "EV_S_CRTM_VERSION",
    EV_CPU_MICROCODE: "EV_CPU_MICROCODE",
    EV_PLATFORM_CONFIG_FLAGS: "EV_PLATFORM_CONFIG_FLAGS",
    0x0B: "EV_TABLE_OF_DEVICES",
    0x0C: "EV_COMPACT_HASH",
    EV_IPL: "EV_IPL",
    0x0E: "EV_IPL_PARTITION_DATA",
    EV_NONHOST_CODE: "EV_NONHOST_CODE",
    EV_NONHOST_CONFIG: "EV_NONHOST_CONFIG",
    EV_NONHOST_INFO: "EV_NONHOST_INFO",
    EV_OMIT_BOOT_DEVICE_EVENTS: "EV_OMIT_BOOT_DEVICE_EVENTS",
    EV_POST_CODE2: "EV_POST_CODE2",
    EV_EFI_VARIABLE_DRIVER_CONFIG: "EV_EFI_VARIABLE_DRIVER_CONFIG",
    EV_EFI_VARIABLE_BOOT: "EV_EFI_VARIABLE_BOOT",
    EV_EFI_BOOT_SERVICES_APPLICATION: "EV_EFI_BOOT_SERVICES_APPLICATION",
    EV_EFI_BOOT_SERVICES_DRIVER: "EV_EFI_BOOT_SERVICES_DRIVER",
    EV_EFI_RUNTIME_SERVICES_DRIVER: "EV_EFI_RUNTIME_SERVICES_DRIVER",
    EV_EFI_GPT_EVENT: "EV_EFI_GPT_EVENT",
    EV_EFI_ACTION: "EV_EFI_ACTION",
    EV_EFI_PLATFORM_FIRMWARE_BLOB: "EV_EFI_PLATFORM_FIRMWARE_BLOB",
    EV_EFI_HANDOFF_TABLES: "EV_EFI_HANDOFF_TABLES",
    EV_EFI_PLATFORM_FIRMWARE_BLOB2: "EV_EFI_PLATFORM_FIRMWARE_BLOB2",
    EV_EFI_HANDOFF_TABLES2: "EV_EFI_HANDOFF_TABLES2",
    EV_EFI_VARIABLE_BOOT2: "EV_EFI_VARIABLE_BOOT2",
    EV_EFI_GPT_EVENT2: "EV_EFI_GPT_EVENT2",
    0x80000010: "EV_EFI_HCRTM_EVENT",
    EV_EFI_VARIABLE_AUTHORITY: "EV_EFI_VARIABLE_AUTHORITY",
    EV_EFI_SPDM_FIRMWARE_BLOB: "EV_EFI_SPDM_FIRMWARE_BLOB",
    EV_EFI_SPDM_FIRMWARE_CONFIG: "EV_EFI_SPDM_FIRMWARE_CONFIG",
    EV_EFI_SPDM_DEVICE_POLICY: "EV_EFI_SPDM_DEVICE_POLICY",
    EV_EFI_SPDM_DEVICE_AUTHORITY: "EV_EFI_SPDM_DEVICE_AUTHORITY",
})  # fmt: skip

TAG_REALM_CREATE: Final = 1
TAG_INIT_RIPAS: Final = 2
TAG_REC_CREATE: Final = 3
TAGS: Final[Mapping[int, str]] = MappingProxyType({
    0x8F3B22EC: "Linux EFI stub: initrd",
    0x8F3B22ED: "Linux EFI stub: load options",
    0x4141454C: "Confidential Containers AAEL",
    0xF5BC582A: "systemd-boot: loader.conf",
    0x6C46F751: "systemd-stub: device tree addon",
    0x49DFFE0F: "systemd-stub: initrd addon",
    0xDAC08E1A: "systemd-stub: microcode addon",
    0xD5CB7CBC: "systemd: SMBIOS structure",
})  # fmt: skip
RIM_TAGS: Final[Mapping[int, str]] = MappingProxyType({
    TAG_REALM_CREATE: "REALM_CREATE",
    TAG_INIT_RIPAS: "INIT_RIPAS",
    TAG_REC_CREATE: "REC_CREATE",
})  # fmt: skip
"""Tags 1 to 3 mean this only in a VMM log, at index 0: a guest may use the same numbers for anything."""

GUIDS: Final[Mapping[str, str]] = MappingProxyType({
    "8be4df61-93ca-11d2-aa0d-00e098032b8c": "EFI global variable",
    "d719b2cb-3d3a-4596-a3bc-dad00e67656f": "EFI image security database",
    "605dab50-e046-4300-abb6-3dd810dd8b23": "shim",
    "eb9d2d31-2d88-11d3-9a16-0090273fc14d": "SMBIOS table",
    "f2fd1544-9794-4a2c-992e-e5bbcf20e394": "SMBIOS3 table",
    "8868e871-e4f1-11d3-bc22-0080c73c8881": "ACPI 2.0 table",
})  # fmt: skip
