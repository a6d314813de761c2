"""What an administrator does before the first realm may have a secret. All of it through ``kbs-rim``, as anybody would."""

from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from demo.images import Image, sha256_of
from demo.programs import Cli
from demo.realms import DISK_COMMAND_LINE, EVERY, QEMU_FIRMWARE, REM0_AFTER_BOOT, VALUES, Vm, rebuilt, workload_text
from demo.site import Site

TEMPLATES = Path(__file__).parent / "workloads"
_NAMES = {
    "linux": ("kernel", "kernel"),
    "initrd.gz": ("initrd", "initrd"),
    "QEMU_EFI.fd": ("firmware", "EDK2 for QEMU"),
    "initrd-b.gz": ("initrd", "initrd of tenant B"),
}


@dataclass(frozen=True, slots=True)
class Prepared:
    """What exists before any service runs: image files, and what each VM will look like (``kbs-rim simulate --json``)."""

    images: dict[str, Image]
    layouts: Mapping[str, Any]

    @property
    def paths(self) -> dict[str, Path]:
        """Image files by name."""
        return {name: image.path for name, image in self.images.items()}


def prepare(site: Site, images: Mapping[str, Image]) -> Prepared:
    """Make the other tenant's initrd, the machines with their endorsements, and the device trees."""
    (site.folder / "endorsements").mkdir()
    known = {**images, "initrd-b.gz": _other_initrd(images["initrd.gz"], site.folder / "initrd-b.gz")}
    paths = {name: image.path for name, image in known.items()}
    layouts = {vm.workload: _plan(site, vm, paths) for vm in EVERY}
    for vm in EVERY:
        if not vm.registers_its_tree:
            continue
        tree = site.folder / vm.device_tree
        origin = {"origin": "made by the VMM for this VM", "vm": vm.workload, "file-sha256": sha256_of(tree)}
        known[vm.device_tree] = Image(tree, origin["file-sha256"], origin)
    return Prepared(known, layouts)


def _other_initrd(initrd: Image, path: Path) -> Image:
    path.write_bytes(rebuilt(initrd.path.read_bytes()))
    digest = sha256_of(path)
    return Image(path, digest, {"origin": "rebuilt by tenant B", "rebuilt-from": initrd.sha256, "file-sha256": digest})


def _plan(site: Site, vm: Vm, images: Mapping[str, Path]) -> Any:
    """Let the simulator say what the VM will look like; write its device tree and its machine's endorsements.

    One maker endorses its machine by a CoRIM, the other by a CoMID in JSON: the verifier reads both.
    """
    suffix = "json" if vm.platform == QEMU_FIRMWARE.platform else "cbor"
    platform = ["--platform", str(site.folder / f"{vm.platform}.json"), "--new-platform"]
    endorsements = ["--endorsements-out", str(site.folder / "endorsements" / f"{vm.platform}.{suffix}")]
    files = ["--dtb-out", str(site.folder / vm.device_tree)]
    files += ["--cc-log-out", str(site.folder / vm.firmware_log)] if vm.measures_a_disk else []
    return site.local.json("simulate", *vm.arguments(images), *files, *platform, *endorsements, echo=True)


def found(site: Site) -> None:
    """Create the broker's key, its database, an administrator and an auditor; their tokens go to files."""
    site.local.must("secret", "new-kek", str(site.folder / "kek"))
    site.local.must("db", "upgrade")
    for role in ("admin", "auditor"):
        token = site.local.must("principal", "add", f"demo-{role}", "--role", role).stdout
        file = site.folder / f"{role}.token"
        file.touch(mode=0o600)
        file.write_bytes(token)


def register(admin: Cli, site: Site, prepared: Prepared, crew: Executor) -> dict[str, str]:
    """Register images, workloads and secrets; return image name -> image id."""
    ids = dict(zip(prepared.images, crew.map(partial(_add_image, admin), *zip(*prepared.images.items(), strict=True)), strict=True))
    for vm in EVERY:
        names = {
            "linux": ids["linux"],
            "initrd": ids["initrd.gz"],
            "initrd_b": ids["initrd-b.gz"],
            "firmware": ids["QEMU_EFI.fd"],
            "device_tree": ids.get(vm.device_tree, ""),
            "rem0": REM0_AFTER_BOOT,
        }
        file = site.folder / f"{vm.workload}.toml"
        file.write_text(workload_text((TEMPLATES / file.name).read_text(), names))
        admin.must("workload", "add", str(_learned(admin, site, vm, file) if vm.measures_a_disk else file))
    for vm in EVERY:
        admin.must("secret", "add", vm.key, "--key-id", vm.workload, "--workload", vm.workload, "--value-file", "-", stdin=VALUES[vm.key])
    return ids


def _learned(admin: Cli, site: Site, vm: Vm, file: Path) -> Path:
    """Learn the rules for the REMs from the log of a boot that the administrator trusts; return the whole workload."""
    learned = file.with_name(f"{vm.workload}-learned.toml")
    tree = ["--device-tree", str(site.folder / vm.device_tree), "--command-line", DISK_COMMAND_LINE]
    log = [str(site.folder / vm.firmware_log), "--kind", "cc", "--registry"]
    admin.must("workload", "learn", *log, *tree, "--into", str(file), "--output", str(learned))
    return learned


def _add_image(admin: Cli, name: str, image: Image) -> str:
    role, title = _NAMES.get(name, ("device-tree", f"device tree of {name.removesuffix('.dtb')}"))
    if "package" in image.provenance:
        title = f"{title} from {image.provenance['package']}"
    provenance = [part for key, value in image.provenance.items() for part in ("--provenance", f"{key}={value}")]
    return admin.must("image", "add", str(image.path), "--name", title, "--role", role, *provenance).stdout.decode().strip()
