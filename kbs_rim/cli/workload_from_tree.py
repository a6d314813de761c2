"""The device tree that QEMU makes itself, for the hosts that a workload is drafted for."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from kbs_rim.workload_sources.subject import DraftSubject


def stock_tree(subject: "DraftSubject", arguments: Sequence[str], version_text: str, address_bits: int | None) -> tuple[bytes, str]:
    """Return the tree that the emulator of this version makes for the arguments, and its name in a workload's definition.

    Raises ``click.UsageError`` where the arguments ask for a tree that is not known, or the hosts differ in what it shows.
    """
    from kbs_rim.errors import InvalidDocument
    from kbs_rim.measurement.vmm.request import effective_host
    from kbs_rim.measurement.vmm.stock_qemu import stock_qemu_tree
    from kbs_rim.measurement.vmm.stock_qemu_arguments import read_stock_arguments
    from kbs_rim.measurement.vmm.stock_qemu_definition import BootFiles, HostFacts, stock_machine
    from kbs_rim.measurement.vmm.stock_qemu_profile import qemu_version

    pmus = {effective_host(subject.definition, host.capabilities, subject.profile).pmu for host in subject.hosts}
    if len(pmus) > 1:
        raise click.UsageError("the hosts differ in their PMU, which is in QEMU's device tree: make a workload for each")
    kernel, initrd = subject.images.get("kernel"), subject.images.get("initrd")
    files = BootFiles(kernel=None if kernel is None else kernel.kernel, initrd_size=None if initrd is None else initrd.size)
    try:
        version, read = qemu_version(version_text), read_stock_arguments(arguments)
        facts = HostFacts(pmu=next(iter(pmus), subject.definition.pmu), address_bits=address_bits)
        tree = stock_qemu_tree(stock_machine(read, version, files, facts, None))
    except InvalidDocument as error:
        hint = "kbs-rim dtb make qemu knows more of the host; give its tree with --dtb"
        raise click.UsageError(f"--qemu-version: {error} ({hint})") from None
    return tree, f"qemu-{version.name}"
