"""The build compiles the native kernel where it can, and makes a pure package where it cannot."""

import importlib.util
import shutil
import sysconfig
from pathlib import Path

import pytest

hatch_build = pytest.importorskip("hatch_build", reason="hatchling is not installed")
ROOT = Path(__file__).parent.parent
COMPILER = (sysconfig.get_config_var("CC") or "cc").split()[0]
HEADER = Path(sysconfig.get_path("include")) / "Python.h"
can_compile = pytest.mark.skipif(shutil.which(COMPILER) is None or not HEADER.exists(), reason="no compiler, or no headers of Python")


class App:
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def display_warning(self, text: str) -> None:
        self.warnings.append(text)


def build(version: str = "standard"):
    app = App()
    hook = hatch_build.KernelBuildHook(str(ROOT), {}, None, None, str(ROOT), "wheel", app)
    data = {"force_include": {}, "pure_python": True, "tag": ""}
    hook.initialize(version, data)
    return hook, data, app.warnings


@can_compile
def test_a_wheel_holds_the_kernel_and_is_for_one_kind_of_machine():
    hook, data, warnings = build()
    [(built, inside)] = data["force_include"].items()
    assert inside == "kbs_rim/measurement/_chain_kernel.abi3.so"
    assert (data["pure_python"], warnings) == (False, [])
    assert data["tag"].startswith("cp311-abi3-linux_")
    spec = importlib.util.spec_from_file_location("_chain_kernel", built)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.extend(1, bytes(32), 0, 4096, 0, None) == bytes(32)
    hook.finalize("standard", data, "")
    assert not Path(built).exists()


def test_without_a_compiler_the_wheel_is_pure_and_the_build_says_so(monkeypatch):
    monkeypatch.setenv("CC", "/nonexistent/cc")
    _, data, [warning] = build()
    assert (data["force_include"], data["pure_python"], data["tag"]) == ({}, True, "")
    assert "pure Python" in warning


def test_a_compiler_that_refuses_leaves_nothing_behind(monkeypatch, tmp_path):
    monkeypatch.setenv("CC", "false")
    with pytest.raises(hatch_build.CannotCompile, match="false failed"):
        hatch_build.compile_kernel(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_the_environment_demands(monkeypatch):
    monkeypatch.setenv("CC", "false")
    monkeypatch.setenv("RIM_KERNEL", "required")
    with pytest.raises(hatch_build.CannotCompile):
        build()
    monkeypatch.setenv("RIM_KERNEL", "no")
    assert build()[1:] == ({"force_include": {}, "pure_python": True, "tag": ""}, [])
    monkeypatch.setenv("RIM_KERNEL", "perhaps")
    with pytest.raises(ValueError, match="RIM_KERNEL"):
        build()
