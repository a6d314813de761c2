"""Options that say what the tree that QEMU makes itself depends on, beside its command line; of ``dtb make qemu`` and ``measure qemu``."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from kbs_rim.measurement.vmm.stock_qemu_profile import CpuCaches
    from kbs_rim.measurement.vmm.stock_qemu_request import Seeds

_Function = TypeVar("_Function", bound=Callable[..., Any])
_CACHE_NUMBERS = 6
_OPTIONS = (
    click.option("--kaslr-seed", metavar="HEX", help="8 random bytes that QEMU put into its tree; a realm has none unless asked for."),
    click.option("--rng-seed", metavar="HEX", help="32 random bytes that QEMU put into its tree; a realm has none unless asked for."),
    click.option("--host-pmu/--no-host-pmu", default=None, help="With KVM and no pmu= in -cpu: whether the guest has a PMU."),
    click.option(
        "--host-address-bits", type=click.IntRange(32, 52), help="With KVM: bits of guest addresses, where the layout depends on them."
    ),
    click.option(
        "--host-caches", metavar="NUMBERS", help="With KVM and QEMU 11: line, size and sets of the L1 data, then the instruction cache."
    ),
)


def host_facts(command: _Function) -> _Function:
    """Add the options to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def seeds_of(kaslr: str | None, rng: str | None) -> "Seeds | None":
    """Read both seeds; raises ``UsageError`` unless they are hexadecimal, and both there or neither."""
    from kbs_rim.measurement.vmm.stock_qemu_request import Seeds

    if kaslr is None and rng is None:
        return None
    if kaslr is None or rng is None:
        raise click.UsageError("--kaslr-seed and --rng-seed belong together")
    try:
        return Seeds(bytes.fromhex(kaslr), bytes.fromhex(rng))
    except ValueError:
        raise click.UsageError("--kaslr-seed and --rng-seed are in hexadecimal") from None


def caches_of(text: str | None) -> "CpuCaches | None":
    """Read the six numbers of ``--host-caches``; raises ``UsageError``."""
    from kbs_rim.measurement.vmm.stock_qemu_profile import CpuCaches

    if text is None:
        return None
    parts = text.split(",")
    if len(parts) != _CACHE_NUMBERS or not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        raise click.UsageError("--host-caches is six numbers such as 64,65536,256,64,65536,256")
    return CpuCaches(*map(int, parts))
