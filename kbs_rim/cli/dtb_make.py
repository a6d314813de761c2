"""``kbs-rim dtb make``: the device trees that VMMs make themselves, from their command lines."""

import hashlib
import json
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kbs_rim.cli import EXIT_OK
from kbs_rim.cli.stock_qemu_options import caches_of, host_facts, seeds_of

if TYPE_CHECKING:
    from kbs_rim.measurement.image import Arm64Header
    from kbs_rim.measurement.vmm.stock_qemu_arguments import StockArguments
    from kbs_rim.measurement.vmm.stock_qemu_definition import BootFiles, HostFacts

_INPUT = click.Path(path_type=Path, exists=True, dir_okay=False)
_HEADER_SIZE = 64
_GZIP_MAGIC, _GZIP_WINDOW = b"\x1f\x8b\x08", 31
_PACKED_HEAD = 64 * 1024
"""Bytes of a gzip'd kernel that hold its header."""
_U_BOOT_MAGIC = b"\x27\x05\x19\x56"


@click.group("make")
def command() -> None:
    """Make device trees as VMMs do, byte for byte."""


@command.command(context_settings={"ignore_unknown_options": True})
@click.option("--qemu-version", required=True, metavar="VERSION", help="The emulator's version, such as 10.0.13; not the machine's.")
@click.option(
    "--output", "-o", required=True, type=click.Path(path_type=Path, allow_dash=True, dir_okay=False), help="Where to (- is stdout)."
)
@click.option("--kernel", type=_INPUT, help="The kernel, if -kernel names a file of another machine.")
@click.option("--initrd", type=_INPUT, help="The initrd, if -initrd names a file of another machine.")
@host_facts
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.argument("arguments", metavar="-- QEMU ARGUMENTS", nargs=-1, type=click.UNPROCESSED)
def qemu(qemu_version: str, output: Path, as_json: bool, arguments: tuple[str, ...], **options: Any) -> int:
    """Write the tree that QEMU's virt machine makes for ARGUMENTS when no -dtb is given; put -- in front of them.

    It has 1 MiB, as QEMU loads it, old bytes in the padding included. What changes the tree in a way that is not known is refused by
    its name, exit 64. Exit 1 for a VM that cannot be, 2 for a file that cannot be read.
    """
    from kbs_rim.errors import InvalidDocument
    from kbs_rim.measurement.vmm.stock_qemu import stock_qemu_tree
    from kbs_rim.measurement.vmm.stock_qemu_arguments import read_stock_arguments
    from kbs_rim.measurement.vmm.stock_qemu_definition import stock_machine
    from kbs_rim.measurement.vmm.stock_qemu_profile import qemu_version as version_of

    version, seeds = version_of(qemu_version), seeds_of(options["kaslr_seed"], options["rng_seed"])
    try:
        read = read_stock_arguments(arguments)
        files = _boot_files(read, options["kernel"], options["initrd"])
        tree = stock_qemu_tree(stock_machine(read, version, files, _host(options), seeds))
    except InvalidDocument as error:
        if error.finding_id == "document.vm-arguments":
            raise click.UsageError(str(error)) from None
        raise
    with click.open_file(str(output), "wb") as stream:
        stream.write(tree)
    _report(output, tree, read, version.name, as_json=as_json)
    return EXIT_OK


def _report(output: Path, tree: bytes, read: "StockArguments", version: str, *, as_json: bool) -> None:
    digest = hashlib.sha256(tree).hexdigest()
    to_stderr = str(output) == "-"
    if as_json:
        document = {"file": str(output), "size": len(tree), "sha256": digest, "qemu": version}
        document |= {"ignored": list(read.ignored), "remarks": list(read.remarks)}
        click.echo(json.dumps(document, indent=2), err=to_stderr)
        return
    click.echo(f"{digest}  {output}", err=to_stderr)
    if read.ignored:
        click.echo(f"kbs-rim: these change nothing in the tree: {', '.join(read.ignored)}", err=True)
    for remark in read.remarks:
        click.echo(f"kbs-rim: {remark}", err=True)


def _boot_files(read: "StockArguments", kernel: Path | None, initrd: Path | None) -> "BootFiles":
    """What the tree needs to know of the kernel and the initrd; nothing is opened that it does not need."""
    from kbs_rim.measurement.vmm.stock_qemu_definition import BootFiles, needs_boot_files

    if not needs_boot_files(read) or read.kernel is None:
        return BootFiles()
    header = _kernel_header(kernel or Path(read.kernel))
    if read.initrd is None:
        return BootFiles(kernel=header)
    return BootFiles(kernel=header, initrd_size=_initrd_size(initrd or Path(read.initrd)))


def _kernel_header(file: Path) -> "Arm64Header":
    from kbs_rim.measurement.image import read_arm64_header

    with file.open("rb") as stream:
        head = stream.read(_PACKED_HEAD)
    if head.startswith(_GZIP_MAGIC):
        try:
            head = zlib.decompressobj(_GZIP_WINDOW).decompress(head, _HEADER_SIZE)
        except zlib.error as error:
            raise click.ClickException(f"{file}: gzip: {error}") from None
    header = read_arm64_header(head)
    if header is None:
        raise click.ClickException(f"{file} is no arm64 Image: where the initrd goes is not known")
    return header


def _initrd_size(file: Path) -> int:
    with file.open("rb") as stream:
        if stream.read(len(_U_BOOT_MAGIC)) == _U_BOOT_MAGIC:
            raise click.ClickException(f"{file} is wrapped for U-Boot, which QEMU unpacks; give the initrd itself")
    return file.stat().st_size


def _host(options: dict[str, Any]) -> "HostFacts":
    from kbs_rim.measurement.vmm.stock_qemu_definition import HostFacts

    return HostFacts(pmu=options["host_pmu"], address_bits=options["host_address_bits"], caches=caches_of(options["host_caches"]))
