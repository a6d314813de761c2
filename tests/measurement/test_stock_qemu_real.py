"""Trees of the emulator itself, for random command lines, against ours: byte for byte.

``KBS_RIM_TEST_QEMU`` names emulators (separated by colons) to be tried besides the one that is installed,
``KBS_RIM_TEST_QEMU_ROUNDS`` how many command lines each gets, ``KBS_RIM_TEST_QEMU_SEED`` which ones.
"""

import os
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from kbs_rim.errors import InvalidDocument
from kbs_rim.measurement.image import read_arm64_header
from kbs_rim.measurement.vmm.stock_qemu import stock_qemu_tree
from kbs_rim.measurement.vmm.stock_qemu_arguments import read_stock_arguments
from kbs_rim.measurement.vmm.stock_qemu_definition import BootFiles, HostFacts, needs_boot_files, stock_machine
from kbs_rim.measurement.vmm.stock_qemu_profile import QemuVersion, qemu_version
from tests.measurement.stock_qemu_choices import BootImages, Choices

ROUNDS = int(os.environ.get("KBS_RIM_TEST_QEMU_ROUNDS", "40"))
SEED = os.environ.get("KBS_RIM_TEST_QEMU_SEED", "1")
INSTALLED = shutil.which("qemu-system-aarch64")
EMULATORS = [path for path in os.environ.get("KBS_RIM_TEST_QEMU", "").split(":") if path]
if INSTALLED is not None:
    EMULATORS.append(INSTALLED)


def version_of(emulator: str) -> QemuVersion:
    printed = subprocess.run([emulator, "--version"], capture_output=True, text=True, check=True).stdout
    match = re.match(r"QEMU emulator version ([0-9.]+)", printed)
    assert match is not None, printed
    try:
        return qemu_version(match[1])
    except InvalidDocument as error:
        pytest.skip(str(error))


def ours(arguments: list[str], version: QemuVersion) -> bytes:
    read = read_stock_arguments(arguments)
    files = BootFiles()
    if needs_boot_files(read):
        assert read.kernel is not None
        size = None if read.initrd is None else Path(read.initrd).stat().st_size
        files = BootFiles(kernel=read_arm64_header(Path(read.kernel).read_bytes()), initrd_size=size)
    return stock_qemu_tree(stock_machine(read, version, files, HostFacts(), None))


def theirs(emulator: str, arguments: list[str], folder: Path) -> bytes | None:
    """The tree, or None if the emulator refuses the command line."""
    dump = folder / "dump.dtb"
    dump.unlink(missing_ok=True)
    machine = f"{arguments[1]},dumpdtb={dump}"
    quiet = ["-display", "none", "-nic", "none", "-monitor", "none"]
    subprocess.run([emulator, "-M", machine, *arguments[2:], *quiet], capture_output=True, timeout=60, check=False)
    return dump.read_bytes() if dump.exists() else None


@pytest.mark.skipif(not EMULATORS, reason="no qemu-system-aarch64 is installed (Debian: qemu-system-arm)")
@pytest.mark.parametrize("emulator", EMULATORS or ["none"])
def test_the_emulator_writes_the_same_bytes(emulator, tmp_path):
    version = version_of(emulator)
    choices = Choices(random.Random(SEED), version, BootImages.make(tmp_path))
    compared = 0
    for _ in range(ROUNDS):
        arguments = choices.draw()
        real = theirs(emulator, arguments, tmp_path)
        if real is None:
            continue
        compared += 1
        assert ours(arguments, version) == real, arguments
    assert compared > ROUNDS // 3
