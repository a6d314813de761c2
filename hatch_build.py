"""Compiles the native kernel of the RIM chain while the package is built; without a compiler the package is as good, but slower.

``RIM_KERNEL`` in the environment of the build: ``auto`` (default: compile if that is possible), ``no`` (a wheel for every platform),
``required`` (fail without it). ``python hatch_build.py`` compiles it into the working tree, which is what ``make native`` does.
"""

import os
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).resolve().parent
SOURCE = Path("kbs_rim/measurement/_chain_kernel.c")
MODULE = "_chain_kernel.abi3.so"
FLAGS = ("-O3", "-std=c11", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra")
OLDEST_PYTHON = "cp311"
_COMPILER_TIMEOUT_S = 120


class CannotCompile(Exception):
    """There is no compiler, no Python.h, or the compiler refused."""


def compile_kernel(folder: Path) -> Path:
    """Compile into ``folder``, atomically; ``CC`` and ``CFLAGS`` are respected. Raises ``CannotCompile``."""
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise CannotCompile("the stable ABI does not exist without the interpreter's lock")
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    target = folder / MODULE
    partial = folder / f".{MODULE}.{os.getpid()}"
    include = sysconfig.get_path("include")
    command = [*compiler, *FLAGS, *shlex.split(os.environ.get("CFLAGS", "")), f"-I{include}", str(ROOT / SOURCE), "-o", str(partial)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_COMPILER_TIMEOUT_S)
        partial.replace(target)
    except subprocess.CalledProcessError as error:
        raise CannotCompile(error.stderr.strip().splitlines()[0] if error.stderr.strip() else f"{compiler[0]} failed") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotCompile(str(error)) from None
    finally:
        partial.unlink(missing_ok=True)
    return target


class KernelBuildHook(BuildHookInterface[Any]):
    """Puts the compiled kernel into a wheel, or into the working tree of an editable installation."""

    PLUGIN_NAME = "custom"
    _folder: tempfile.TemporaryDirectory[str] | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile; what goes wrong is said and makes a pure package, unless the kernel is required."""
        wanted = os.environ.get("RIM_KERNEL", "auto")
        if wanted not in ("auto", "no", "required"):
            raise ValueError(f"RIM_KERNEL is auto, no or required, not {wanted}")
        if wanted == "no" or self.target_name != "wheel":
            return
        try:
            if version == "editable":
                compile_kernel((ROOT / SOURCE).parent)
                return
            self._folder = tempfile.TemporaryDirectory()
            built = compile_kernel(Path(self._folder.name))
        except CannotCompile as error:
            self._forget()
            if wanted == "required":
                raise
            self.app.display_warning(f"no native kernel, the package is pure Python: {error}")
            return
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["force_include"][str(built)] = str(SOURCE.with_name(MODULE))
        build_data["pure_python"] = False
        build_data["tag"] = f"{OLDEST_PYTHON}-abi3-{platform}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was compiled for a wheel."""
        self._forget()

    def _forget(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


def main() -> int:
    """Compile into the working tree."""
    try:
        sys.stderr.write(f"compiled {compile_kernel((ROOT / SOURCE).parent).relative_to(ROOT)}\n")
    except CannotCompile as error:
        sys.stderr.write(f"make native: no native kernel, the Python one does the same more slowly: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
