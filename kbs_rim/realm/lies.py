"""Every lie that a host or an attester can tell here, one knob each.

A host that is clever logs truthfully what it did, so that the RIM matches and only the boot plan gives it away; where the
lie is in the log itself, the VM is the planned one. ``findings`` names what a broker is expected to say: at least one of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum, StrEnum
from types import MappingProxyType

from kbs_rim.realm import log_lies, vm_lies
from kbs_rim.realm.host_script import HostScript
from kbs_rim.realm.log_emitter import LOG_AREA_SIZE, LogRecord


class Lie(StrEnum):
    """Names of the lies, as on the command line."""

    TAMPERED_KERNEL = "tampered-kernel"
    UNREGISTERED_IMAGE = "unregistered-image"
    FORGED_DEVICE_TREE = "forged-device-tree"
    PC_OFF_ENTRY = "pc-off-entry"
    X0_IN_LOG_AREA = "x0-in-log-area"
    UNMEASURED_KERNEL = "unmeasured-kernel"
    UNMEASURED_KERNEL_PAGE = "unmeasured-kernel-page"
    UNMEASURED_INITRD = "unmeasured-initrd"
    UNMEASURED_INITRD_PAGE = "unmeasured-initrd-page"
    IMAGE_LOGGED_AS_LOG = "image-logged-as-log"
    SECOND_RUNNABLE_REC = "second-runnable-rec"
    OVERLAPPING_IMAGES = "overlapping-images"
    EXTRA_IMAGE = "extra-image"
    EXTRA_DATA = "extra-data"
    LOG_WITHOUT_CREATE = "log-without-create"
    LOG_BOMB_SIZE = "log-bomb-size"
    LOG_BOMB_COUNT = "log-bomb-count"
    LOG_BOMB_RECORDS = "log-bomb-records"
    RIPAS_BOMB = "ripas-bomb"
    REM_MOVED = "rem-moved"
    REPLAYED_NONCE = "replayed-nonce"
    SPLICED_PLATFORM_TOKEN = "spliced-platform-token"  # noqa: S105
    DEBUG_PLATFORM = "debug-platform"
    DUPLICATE_KEYS_FORGED_LAST = "duplicate-keys-forged-last"
    DUPLICATE_KEYS_FORGED_FIRST = "duplicate-keys-forged-first"
    DUPLICATE_KEYS_TEXT = "duplicate-keys-text"


class TokenLie(Enum):
    """What is wrong with the token; carried out by the simulator."""

    OLD_CHALLENGE = "answers an old challenge"
    SPLICED = "platform token of another platform"
    DEBUG = "platform in debug life cycle"
    FORGED_LAST = "genuine members first, forged ones last"
    FORGED_FIRST = "forged members first, genuine ones last"
    FORGED_AS_INTEGER = "genuine members under text keys, forged ones under integers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Distortion:
    """One lie. ``log_of_plan``: the log tells of the VM that was promised, not of the one that was built."""

    about: str
    findings: frozenset[str]
    vm: Callable[[HostScript], HostScript] = lambda script: script
    log_of_plan: bool = False
    log: Callable[[tuple[LogRecord, ...]], tuple[LogRecord, ...]] = lambda records: records
    log_area_size: int = LOG_AREA_SIZE
    token: TokenLie | None = None
    extends: tuple[tuple[int, bytes], ...] = ()


_DUPLICATES = Distortion(
    about="The collection names its members twice: a genuine token of an attacker's realm, and a forged one with the wanted RIM.",
    findings=frozenset({"cbor.duplicate-key"}),
    vm=vm_lies.tamper_with_entry_image,
    log_of_plan=True,
    token=TokenLie.FORGED_LAST,
)

LIES: Mapping[Lie, Distortion] = MappingProxyType(
    {
        Lie.TAMPERED_KERNEL: Distortion(
            about="One byte of the kernel (or firmware) is changed; the log has the digest of the trusted one.",
            findings=frozenset({"rim.mismatch"}),
            vm=vm_lies.tamper_with_entry_image,
            log_of_plan=True,
        ),
        Lie.UNREGISTERED_IMAGE: Distortion(
            about="One byte of the kernel (or firmware) is changed, and the log says so.",
            findings=frozenset({"rim.image-unknown"}),
            vm=vm_lies.tamper_with_entry_image,
        ),
        Lie.FORGED_DEVICE_TREE: Distortion(
            about="The device tree is the host's own, and the log says so.",
            findings=frozenset({"rim.image-unknown"}),
            vm=vm_lies.forge_device_tree,
        ),
        Lie.PC_OFF_ENTRY: Distortion(
            about="The first vCPU starts one page behind the entry point.",
            findings=frozenset({"boot.entry-point"}),
            vm=vm_lies.move_pc,
        ),
        Lie.X0_IN_LOG_AREA: Distortion(
            about="x0 points to a forged device tree in the log area, which nobody measures.",
            findings=frozenset({"boot.x0", "boot.log-area"}),
            vm=vm_lies.point_x0_into_log,
        ),
        Lie.UNMEASURED_KERNEL: Distortion(
            about="The kernel (or firmware) is populated without being measured and logged without a digest.",
            findings=frozenset({"plan.unmeasured", "log.digests"}),
            vm=lambda script: vm_lies.unmeasure(script, script.entry_image.name),
        ),
        Lie.UNMEASURED_KERNEL_PAGE: Distortion(
            about="One page of the kernel (or firmware) is the host's own and unmeasured; the log says nothing.",
            findings=frozenset({"rim.mismatch"}),
            vm=vm_lies.unmeasure_one_page,
        ),
        Lie.UNMEASURED_INITRD: Distortion(
            about="The initrd is populated without being measured and logged without a digest.",
            findings=frozenset({"plan.unmeasured"}),
            vm=lambda script: vm_lies.unmeasure(script, "INITRD"),
        ),
        Lie.UNMEASURED_INITRD_PAGE: Distortion(
            about="No initrd is loaded; the log area lies where the kernel looks for it, with the host's initrd in it.",
            findings=frozenset({"boot.role-missing", "boot.log-reserved", "tree.initrd"}),
            vm=vm_lies.log_area_over_initrd,
        ),
        Lie.IMAGE_LOGGED_AS_LOG: Distortion(
            about="The kernel (or firmware) is populated unmeasured, and the log calls it the log area.",
            findings=frozenset({"plan.log-area", "boot.role-missing"}),
            vm=vm_lies.entry_image_as_log,
        ),
        Lie.SECOND_RUNNABLE_REC: Distortion(
            about="A second vCPU is runnable at boot, with a PC that the host chose.",
            findings=frozenset({"boot.rec-count"}),
            vm=vm_lies.add_runnable_rec,
        ),
        Lie.OVERLAPPING_IMAGES: Distortion(
            about="The initrd (or device tree) begins inside the last page of the kernel (or firmware).",
            findings=frozenset({"boot.overlap", "rim.mismatch"}),
            vm=vm_lies.overlap_images,
        ),
        Lie.EXTRA_IMAGE: Distortion(
            about="The kernel (or firmware) is loaded a second time, elsewhere, and logged.",
            findings=frozenset({"boot.role-repeated"}),
            vm=vm_lies.load_entry_image_twice,
        ),
        Lie.EXTRA_DATA: Distortion(
            about="A page of the host's is measured into the realm and not logged.",
            findings=frozenset({"rim.mismatch"}),
            vm=vm_lies.hide_a_page,
        ),
        Lie.LOG_WITHOUT_CREATE: Distortion(
            about="The log has no REALM_CREATE.", findings=frozenset({"plan.realm-create"}), log=log_lies.without_create
        ),
        Lie.LOG_BOMB_SIZE: Distortion(
            about="A record claims four gigabytes of data.", findings=frozenset({"log.event-size"}), log=log_lies.huge_event
        ),
        Lie.LOG_BOMB_COUNT: Distortion(
            about="A record claims four thousand million digests.", findings=frozenset({"log.digests"}), log=log_lies.many_digests
        ),
        Lie.LOG_BOMB_RECORDS: Distortion(
            about="The log is a megabyte of empty records.",
            findings=frozenset({"log.too-large", "log.events"}),
            log=log_lies.many_records,
            log_area_size=log_lies.BOMB_SIZE,
        ),
        Lie.RIPAS_BOMB: Distortion(
            about="The log makes an exabyte of address space RAM.", findings=frozenset({"plan.ripas"}), log=log_lies.huge_ripas
        ),
        Lie.REM_MOVED: Distortion(
            about="Something extended REM3 and no log explains it.",
            findings=frozenset({"rem.mismatch"}),
            extends=((4, b"unexplained"),),
        ),
        Lie.REPLAYED_NONCE: Distortion(
            about="The token answers an old challenge.", findings=frozenset({"realm.challenge"}), token=TokenLie.OLD_CHALLENGE
        ),
        Lie.SPLICED_PLATFORM_TOKEN: Distortion(
            about="A realm token under the attacker's own key stands beside the genuine token of an endorsed platform.",
            findings=frozenset({"realm.binding"}),
            token=TokenLie.SPLICED,
        ),
        Lie.DEBUG_PLATFORM: Distortion(
            about="The platform's RMM can be debugged.", findings=frozenset({"platform.lifecycle"}), token=TokenLie.DEBUG
        ),
        Lie.DUPLICATE_KEYS_FORGED_LAST: _DUPLICATES,
        Lie.DUPLICATE_KEYS_FORGED_FIRST: replace(_DUPLICATES, token=TokenLie.FORGED_FIRST),
        Lie.DUPLICATE_KEYS_TEXT: replace(
            _DUPLICATES,
            about='The genuine members have the text keys "44234" and "44241", which some readers take for the integers.',
            findings=frozenset({"cbor.key-type"}),
            token=TokenLie.FORGED_AS_INTEGER,
        ),
    }
)
"""Every lie, complete: a lie without an entry is a defect that a test finds."""
