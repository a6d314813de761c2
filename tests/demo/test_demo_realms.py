"""The demo's VMs and workloads fit each other."""

import gzip
import hashlib
import tomllib
from pathlib import Path

import pytest
from demo.administration import TEMPLATES
from demo.programs import clean_environment, short_form
from demo.realms import EVERY, MIXED, QEMU_KERNEL, REM0_AFTER_BOOT, VALUES, rebuilt, workload_text

from kbs_rim.appraisal.workload import parse_workload

IMAGE = "sha256:" + 64 * "a"
NAMES = dict.fromkeys(("linux", "initrd", "initrd_b", "firmware", "device_tree"), IMAGE) | {"rem0": REM0_AFTER_BOOT}


@pytest.mark.parametrize("vm", EVERY, ids=lambda vm: vm.workload)
def test_every_vm_has_a_workload_and_a_secret(vm):
    text = workload_text((TEMPLATES / f"{vm.workload}.toml").read_text(), NAMES)
    workload = parse_workload(tomllib.loads(text))
    assert workload.name == vm.workload
    loaded = {option for option in vm.files if not option.startswith("disk-")}
    assert {rule.role.value for rule in workload.images} == loaded | ({"device-tree"} if vm.registers_its_tree else set())
    assert (workload.definition is None) == vm.registers_its_tree
    assert vm.measures_a_disk == (loaded != set(vm.files))
    assert VALUES[vm.key]


def test_a_workload_needs_every_image_registered():
    with pytest.raises(KeyError, match="linux"):
        workload_text((TEMPLATES / "qemu-kernel.toml").read_text(), {})


def test_the_mixed_vm_differs_from_the_honest_one_in_its_initrd_only():
    assert {option for option in MIXED.files if MIXED.files[option] != QEMU_KERNEL.files[option]} == {"initrd"}
    assert MIXED.options == QEMU_KERNEL.options


def test_rem0_is_an_extend_of_nothing():
    vm = next(vm for vm in EVERY if "--extend" in vm.options)
    index, _, value = vm.options[vm.options.index("--extend") + 1].partition("=")
    assert index == "1"
    assert hashlib.sha256(bytes(32) + bytes.fromhex(value)).hexdigest() == REM0_AFTER_BOOT


@pytest.mark.parametrize("initrd", [gzip.compress(b"files" * 100), b"no gzip at all"])
def test_a_rebuilt_initrd_has_the_same_size_and_other_bytes(initrd):
    other = rebuilt(initrd)
    assert len(other) == len(initrd)
    assert other != initrd
    if initrd.startswith(b"\x1f\x8b"):
        assert gzip.decompress(other) == gzip.decompress(initrd)


def test_commands_are_shown_in_short_form():
    arguments = ("image", "add", "/somewhere/deep/linux", "--name", "a kernel", IMAGE)
    assert short_form(arguments) == "kbs-rim image add linux --name 'a kernel' 'sha256:aaaaaaaa…'"


def test_the_users_own_settings_do_not_reach_the_demo(monkeypatch):
    for name in ("KBS_RIM_TOKEN", "KBS_RIM__HTTP__GUEST__LISTEN", "https_proxy", "HTTP_PROXY", "PYTHONPATH"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("HOME", str(Path.home()))
    environment = clean_environment()
    assert "HOME" in environment
    assert not [name for name, value in environment.items() if value == "x"]
