"""``kbs-rim measure qemu --qemu-version``: the realm gets the tree that QEMU makes itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kbs_rim.cli.stock_qemu_options import caches_of, host_facts, seeds_of

if TYPE_CHECKING:
    from kbs_rim.measurement.vmm.definition import VmDefinition
    from kbs_rim.measurement.vmm.profile import VmRequest
    from kbs_rim.measurement.vmm.request import EffectiveHost
    from kbs_rim.measurement.vmm.stock_qemu_arguments import StockArguments
    from kbs_rim.measurement.vmm.stock_qemu_realm import StockChoice
    from kbs_rim.measurement.vmm.vmm_profile import VmmProfile

_Function = TypeVar("_Function", bound=Callable[..., Any])
_ONLY_WITH_VERSION = ("kaslr_seed", "rng_seed", "host_pmu", "host_address_bits", "host_caches")


@dataclass(frozen=True, slots=True)
class StockTree:
    """QEMU's command line as its own tree needs it, and what else decides that tree."""

    arguments: "StockArguments"
    choice: "StockChoice"

    @property
    def version(self) -> str:
        """The QEMU whose tree it is, such as ``10.0``."""
        return self.choice.version.name

    def make(self, profile: "VmmProfile", request: "VmRequest", host: "EffectiveHost") -> bytes:
        """Return the tree; raises ``InvalidDocument`` as ``stock_realm_tree`` does."""
        from kbs_rim.measurement.vmm.stock_qemu_realm import stock_realm_tree

        return stock_realm_tree(self.arguments, profile, request, host, self.choice)


def stock_options(command: _Function) -> _Function:
    """Add ``--qemu-version`` and what belongs to it."""
    version = click.option(
        "--qemu-version",
        metavar="VERSION",
        help="QEMU gets no -dtb and makes the tree itself: measure what this version makes (7.2, 10.0, 11.1).",
    )
    return version(host_facts(command))


def stock_tree(arguments: Sequence[str], definition: "VmDefinition", options: dict[str, Any]) -> "tuple[StockTree | None, VmDefinition]":
    """Return how QEMU's own tree is made, None unless it is asked for, and the definition without what only another tree leaves open.

    Raises ``UsageError`` for options that do not go together, ``InvalidDocument`` for a version or an argument that is not known.
    """
    from kbs_rim.measurement.vmm.stock_qemu_profile import qemu_version
    from kbs_rim.measurement.vmm.stock_qemu_realm import StockChoice, read_stock_realm

    if options.get("qemu_version") is None:
        _refuse_alone(options)
        return None, definition
    if definition.vmm != "qemu":
        raise click.UsageError(f"--qemu-version: {definition.vmm} is not QEMU")
    if options["dtb"] is not None or options["dtb_template"] is not None:
        raise click.UsageError("--qemu-version makes the tree, --dtb and --dtb-template give one: leave out either")
    choice = StockChoice(
        version=qemu_version(options["qemu_version"]),
        seeds=seeds_of(options["kaslr_seed"], options["rng_seed"]),
        address_bits=options["host_address_bits"],
        caches=caches_of(options["host_caches"]),
    )
    read, definition = read_stock_realm(arguments, definition)
    return StockTree(read, choice), definition


def _refuse_alone(options: dict[str, Any]) -> None:
    for name in _ONLY_WITH_VERSION:
        if options.get(name) is not None:
            raise click.UsageError(f"--{name.replace('_', '-')} is about the tree that QEMU makes itself: give --qemu-version as well")
