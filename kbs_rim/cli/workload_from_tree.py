"""The device tree that QEMU makes itself, for the hosts that a workload is drafted for."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from kbs_rim.measurement.vmm.stock_qemu_realm import StockChoice
    from kbs_rim.workload_sources.subject import DraftSubject


def stock_tree(subject: "DraftSubject", arguments: Sequence[str], version_text: str, address_bits: int | None) -> "DraftSubject":
    """Return ``subject`` with the tree that the emulator of this version makes for the arguments, and its name for a workload's definition.

    Raises ``click.UsageError`` where the arguments ask for a tree that is not known, or the hosts differ in what it shows.
    """
    from kbs_rim.errors import InvalidDocument
    from kbs_rim.measurement.vmm.stock_qemu_profile import qemu_version
    from kbs_rim.measurement.vmm.stock_qemu_realm import StockChoice

    try:
        choice = StockChoice(version=qemu_version(version_text), address_bits=address_bits)
        found, trees = _trees(subject, arguments, choice)
    except InvalidDocument as error:
        hint = "kbs-rim dtb make qemu knows more of the host; give its tree with --dtb"
        raise click.UsageError(f"--qemu-version: {error} ({hint})") from None
    if len(trees) > 1:
        raise click.UsageError("the hosts differ in what QEMU's device tree shows of them, such as their PMU: make a workload for each")
    bits = address_bits or _guest_bits(found)
    return replace(found, tree=next(iter(trees)), stock_tree=f"qemu-{choice.version.name}", stock_address_bits=bits)


def _guest_bits(subject: "DraftSubject") -> int:
    """Return the bits of guest addresses that all hosts have, 0 if that is not known: half of a realm's space is unprotected."""
    from kbs_rim.workload_sources.subject import requests_of

    known = {host.capabilities.ipa_bits for _, host, _ in requests_of(subject)}
    bits = known.pop() if len(known) == 1 else None
    return bits - 1 if bits else 0


def _trees(subject: "DraftSubject", arguments: Sequence[str], choice: "StockChoice") -> "tuple[DraftSubject, set[bytes]]":
    """Return the tree of each host, equal ones once, and ``subject`` without what only another tree would leave open."""
    from kbs_rim.measurement.vmm.stock_qemu_realm import read_stock_realm, stock_realm_tree
    from kbs_rim.workload_sources.subject import requests_of

    read, definition = read_stock_realm(arguments, subject.definition)
    found = replace(subject, definition=definition)
    return found, {stock_realm_tree(read, found.profile, request, host, choice) for _, host, request in requests_of(found)}
