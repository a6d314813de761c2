"""Files of distributions, where they are at hand: too large to be kept here.

Set ``TEST_IMAGE_FILES`` to a folder with unpacked packages that ``vectors/images`` names; every file of it that is known there
by its SHA-256 is measured and compared with what other tools, or a TPM, say about it.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kbs_rim.cli.image import measure_file
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.measurement.uki import kernel_command_line, load_options

FILES = Path(os.environ.get("TEST_IMAGE_FILES", "/nonexistent"))
UKI_BOOTS = {"UKI": "arm64-uki-direct", "UKI 262": "arm64-uki-direct-edk2-2026.08-systemd-262"}
CODE_BOOTS = {
    "CODE 2022.11": "arm64-direct-edk2-2022.11",
    "CODE 2025.02": "arm64-direct-edk2-2025.02",
    "CODE 2026.08": "arm64-direct-edk2-2026.08",
}
pytestmark = pytest.mark.skipif(not FILES.is_dir(), reason="TEST_IMAGE_FILES names no folder with images")


def found(wanted: dict[str, dict]) -> Iterator[tuple[Path, dict]]:
    for path in sorted(FILES.rglob("*")):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as stream:
                item = wanted.get(hashlib.file_digest(stream, "sha256").hexdigest())
            if item:
                yield path, item


def events_of(vectors: Path, boot: str) -> list[dict]:
    return json.loads((vectors / "images" / "measured-boot" / boot / "oracle.json").read_text())["events"]


def images_of(vectors: Path, roles: dict[str, str]) -> dict[str, dict]:
    items = json.loads((vectors / "images" / "measured-boot" / "images.json").read_text())
    return {item["sha256"]: item for item in items if item["role"] in roles}


def logged(events: list[dict], register: int, kind: str) -> list[dict[str, str]]:
    return [event["digests"] for event in events if (event["pcr"], event["type"]) == (register, kind)]


def test_authenticode_is_what_three_other_tools_compute(vectors):
    items = json.loads((vectors / "images" / "authenticode.json").read_text())["files"]
    compared = 0
    for path, item in found({item["file_sha256"]: item for item in items}):
        pe = measure_file(path).pe
        for algorithm in HashAlgorithm:
            name = algorithm.compact_name
            assert pe.authenticode[algorithm].hex() == item["authenticode"][name], path
            padded = pe.authenticode_padded or pe.authenticode
            assert padded[algorithm].hex() == item.get("authenticode_padded_to_8", item["authenticode"])[name], path
        compared += 1
    assert compared


def test_a_uki_explains_what_a_tpm_saw_of_it(vectors):
    compared = 0
    for path, item in found(images_of(vectors, UKI_BOOTS)):
        events, pe = events_of(vectors, UKI_BOOTS[item["role"]]), measure_file(path).pe
        for algorithm in HashAlgorithm:
            name = algorithm.compact_name
            sections = [digest for section in pe.uki.measured() for digest in (section.name_digest(algorithm), section.digests[algorithm])]
            options = load_options(kernel_command_line(pe.uki.effective()[".cmdline"].text))
            assert [digest.hex() for digest in sections] == [event[name] for event in logged(events, 11, "EV_IPL")]
            assert [algorithm.digest(options).hex(), pe.uki.initrds[0][algorithm].hex()] == [
                event[name] for event in logged(events, 9, "EV_EVENT_TAG")
            ]
            assert pe.authenticode[algorithm].hex() == logged(events, 4, "EV_EFI_BOOT_SERVICES_APPLICATION")[0][name]
        compared += 1
    assert compared


def test_firmware_volumes_explain_what_a_tpm_saw_of_the_firmware(vectors):
    compared = 0
    for path, item in found(images_of(vectors, CODE_BOOTS)):
        [volume] = measure_file(path).volumes
        [event] = logged(events_of(vectors, CODE_BOOTS[item["role"]]), 0, "EV_EFI_PLATFORM_FIRMWARE_BLOB")
        for algorithm in HashAlgorithm:
            assert volume.digests[algorithm].hex() == event[algorithm.compact_name]
        compared += 1
    assert compared
