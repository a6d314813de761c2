"""Which measured events came in time to have started the realm: an image counts for what a workload demands only if it did.

Whatever runs in a realm may extend its REMs, so the digest of a good boot loader proves nothing once something else runs. But a register
keeps its order. Whoever starts a registered kernel without the boot loader and the initrd that a workload demands, with a root file system
of his own, can add their digests afterwards; he cannot put them in front of what firmware and kernel measured before his code ran:

- in REM1 the action "Exit Boot Services Invocation": firmware starts nothing behind it. "Returning from EFI Application" says that all
  images before it gave control back, and a boot loader is called as a boot option (TCG PC Client PFP 10.4.4; EDK2's Tcg2Dxe). What QEMU
  hands over with ``-kernel`` is loaded before the first such call, as drivers are.
- in REM2 the kernel's load options: what a boot loader reads, and the sections of a UKI, are measured before. Linux's EFI stub measures an
  initrd behind them, but not one that it reads from a file because the load options say ``initrd=``. QEMU's firmware says so too and hands
  the initrd over all the same; a kernel from QEMU cannot read a file that QEMU did not give.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kbs_rim.appraisal.event_classes import ClassifiedEvent, EventClass
from kbs_rim.appraisal.event_meaning import REM1, REM2, Meaning
from kbs_rim.appraisal.rule_values import Role
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.measurement.uki import CMDLINE, INITRD, LINUX, UkiFacts

_CALLING = b"Calling EFI Application from Boot Option"
_RETURNING = b"Returning from EFI Application from Boot Option"
_EXIT = b"Exit Boot Services Invocation"
_READ_BY_LOADERS = frozenset({Role.BOOT_LOADER, Role.KERNEL, Role.UKI, Role.UKI_ADDON, Role.BOOT_FILE})
"""Roles that are measured into REM2 before a kernel takes its load options; an initrd it measures itself, right behind them."""
_BOOTED_SECTIONS = (LINUX, CMDLINE, INITRD)
"""What of a UKI decides what runs; every systemd-stub that measures anything measures these."""


@dataclass(frozen=True, slots=True)
class BootOrder:
    """Positions among the events of an appraisal between which the realm was started.

    ``stub``: a UKI's own stub did it. ``file``: the kernel may have read its initrd from a file.
    """

    returned: int
    called: int
    left: int
    options: int
    stub: bool
    file: bool

    @classmethod
    def of(cls, events: Sequence[ClassifiedEvent], algorithm: HashAlgorithm) -> "BootOrder":
        """Find the positions. What a log does not tell of is taken to lie at its ends."""
        # By their digests: a workload may name them, and then the log need not hold the text.
        leaving, returning, calling = (algorithm.digest(text) for text in (_EXIT, _RETURNING, _CALLING))
        actions = [(at, event.logged.digest) for at, event in enumerate(events) if event.logged.rem == REM1]
        left = next((at for at, digest in actions if digest == leaving), len(events))
        before = [(at, digest) for at, digest in actions if at < left]
        returned = max((at for at, digest in before if digest == returning), default=-1)
        called = max((at for at, digest in before if digest == calling), default=-1)
        options = next(
            (at for at, event in enumerate(events) if event.logged.rem == REM2 and event.means(Meaning.LOAD_OPTIONS)), len(events)
        )
        return cls(returned, called, left, options, _by_a_stub(events, options, algorithm), _may_read_a_file(events, options, called))

    def in_time(self, at: int, event: ClassifiedEvent) -> bool:
        """Whether the event at this position can have been part of what started the realm."""
        if event.logged.rem == REM1:
            start = self.called if event.role is Role.BOOT_LOADER else self.returned
            return start < at < self.left
        if event.logged.rem == REM2 and event.role in _READ_BY_LOADERS:
            return self.stub or at < self.options
        if event.logged.rem == REM2 and event.role is Role.INITRD:
            return self.stub or not self.file or at < self.options
        return True

    def too_late(self, events: Sequence[ClassifiedEvent]) -> Iterator[ClassifiedEvent]:
        """Yield the images that were measured into REM1 when firmware had handed over to a kernel."""
        for at, event in enumerate(events):
            if at > self.left and event.logged.rem == REM1 and event.kind is EventClass.IMAGE:
                yield event


def counted_images(events: Sequence[ClassifiedEvent], order: BootOrder, rems: Sequence[int]) -> Iterator[ClassifiedEvent]:
    """Yield the images that can have started the realm.

    A UKI whose kernel firmware measured by itself counts by its sections: the kernel may have been started without it, and its
    Authenticode digest only says that it was loaded. Where REM2 is not explained by logs there is nothing to look at.
    """
    images = [event for at, event in enumerate(events) if event.kind is EventClass.IMAGE and order.in_time(at, event)]
    bare_kernel = any(event.role is Role.KERNEL and event.logged.rem == REM1 for event in images)
    for event in images:
        if event.role is not Role.UKI or order.stub or not bare_kernel or REM2 not in rems:
            yield event


def _by_a_stub(events: Sequence[ClassifiedEvent], options: int, algorithm: HashAlgorithm) -> bool:
    """Whether the sections of one profile of a UKI that is let in were all measured before the first load options."""
    measured = {event.logged.digest for event in events[:options] if event.logged.rem == REM2 and event.kind is EventClass.IMAGE}
    images = {event.image.id: event.image for event in events if event.image is not None and event.role is Role.UKI}
    pes = (image.measurements.pe for image in images.values())
    return any(_measured_whole(pe.uki, measured, algorithm) for pe in pes if pe is not None and pe.uki is not None)


def _may_read_a_file(events: Sequence[ClassifiedEvent], options: int, called: int) -> bool:
    if options == len(events) or not any("initrd=" in meaning.text for meaning in events[options].meanings):
        return False
    started = [at for at, event in enumerate(events) if event.logged.rem == REM1 and event.role is Role.KERNEL]
    return any(at > called for at in started)


def _measured_whole(uki: UkiFacts, measured: set[bytes], algorithm: HashAlgorithm) -> bool:
    for profile in range(uki.profiles):
        sections = uki.effective(profile)
        if all(sections[name].digests.get(algorithm) in measured for name in _BOOTED_SECTIONS if name in sections):
            return True
    return False
