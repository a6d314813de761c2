"""A realm that is started without what the workload demands, and whose user space then extends the digests of a good boot."""

import pytest
from log_forge import SHA256, tagged, tcg_log
from measured_boot import NAMES, MeasuredBoot, RuntimeStage, blob, digests_of, pe
from stage import error_ids

from kbs_rim.appraisal.runtime_workload import ACTIONS
from kbs_rim.appraisal.workload import Role
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.measurement.uki import UkiFacts, UkiForm, UkiSection, load_options

ACTION, APPLICATION, IPL, TAG = 0x80000007, 0x80000003, 0xD, 0x6
LINE = "console=ttyAMA0 root=/dev/vda1"
LOAD_OPTIONS = tagged(0x8F3B22ED, b"LOADED_IMAGE::LoadOptions\0")
SHIM_CODE, GRUB_CODE, KERNEL_CODE, UKI_CODE = b"code of shim", b"code of GRUB", b"code of the kernel", b"code of the UKI"
KERNEL_FILE, INITRD, CONFIG_TEXT = b"a kernel file", b"an initrd", b"linux /vmlinuz"
SHIM = pe("shimaa64.efi", Role.BOOT_LOADER, authenticode=digests_of(SHIM_CODE))
GRUB = pe("grubaa64.efi", Role.BOOT_LOADER, authenticode=digests_of(GRUB_CODE))
KERNEL = pe("vmlinuz", Role.KERNEL, authenticode=digests_of(KERNEL_CODE))
RAMDISK = blob("initrd.img", Role.INITRD, digests=digests_of(INITRD))
CONFIG = blob("grub.cfg", Role.BOOT_FILE, digests=digests_of(CONFIG_TEXT))
SECTIONS = ((".linux", KERNEL_FILE), (".cmdline", LINE.encode()), (".initrd", INITRD))
FACTS = UkiFacts(
    UkiForm.UKI,
    tuple(UkiSection(name, None, len(data), digests_of(data), LINE if name == ".cmdline" else None) for name, data in SECTIONS),
    (digests_of(INITRD),),
)
UKI = pe("linux.efi", Role.UKI, authenticode=digests_of(UKI_CODE), uki=FACTS)

Event = tuple[int, int, bytes, bytes | None]
CALLING: Event = (2, ACTION, b"Calling EFI Application from Boot Option", None)
RETURNING: Event = (2, ACTION, b"Returning from EFI Application from Boot Option", None)
EXIT: tuple[Event, ...] = (
    (2, ACTION, b"Exit Boot Services Invocation", None),
    (2, ACTION, b"Exit Boot Services Returned with Success", None),
)
OPTIONS: Event = (3, TAG, LOAD_OPTIONS, load_options(LINE))
READ_CONFIG: Event = (3, IPL, b"/grub.cfg\0", CONFIG_TEXT)
READ_INITRD: Event = (3, IPL, b"/initrd.img\0", INITRD)
STUB: tuple[Event, ...] = tuple(
    (3, IPL, f"{name}\0".encode("utf-16-le"), data) for name, content in SECTIONS for data in (name.encode() + b"\0", content)
)


def load(code: bytes) -> Event:
    return (2, APPLICATION, bytes(32), code)


def judged(images: tuple, *events: Event, required: object = True, **changes):
    """The verdict on a realm that measured just this, under a workload that demands one image of each role but the kernel's."""
    roles: dict[str, list[str]] = {}
    for image in images:
        roles.setdefault(image.roles[0].value, []).append(image.id)
    table = {
        "logs": [{"kind": "cc"}],
        "images": [{"role": role, "images": ids, "required": role != "kernel" and required} for role, ids in roles.items()],
        **({} if UKI in images else {"command_line": {"exact": [LINE]}}),
        **changes,
    }
    return RuntimeStage(table, [("cc", tcg_log(SHA256, *events))], images).judge()


LOADED = (SHIM, GRUB, KERNEL, RAMDISK, CONFIG)
HONEST = (CALLING, load(SHIM_CODE), load(GRUB_CODE), READ_CONFIG, READ_INITRD, load(KERNEL_CODE), OPTIONS, *EXIT)
WITH_A_UKI = (CALLING, load(UKI_CODE), *STUB, load(KERNEL_CODE), OPTIONS, (3, TAG, LOAD_OPTIONS, INITRD), *EXIT)


def test_honest_boots_are_let_in():
    assert error_ids(judged(LOADED, *HONEST)) == set()
    assert error_ids(judged((UKI, KERNEL), *WITH_A_UKI)) == set()
    handed_over_by_qemu = (load(UKI_CODE), CALLING, *WITH_A_UKI[2:])
    assert error_ids(judged((UKI, KERNEL), *handed_over_by_qemu)) == set()


def test_an_earlier_boot_option_may_have_failed():
    assert error_ids(judged(LOADED, CALLING, RETURNING, *HONEST)) == set()
    assert error_ids(judged((UKI, KERNEL), CALLING, RETURNING, *WITH_A_UKI)) == set()


def test_an_exit_that_had_to_be_tried_twice_is_no_second_boot():
    failed: tuple[Event, ...] = (EXIT[0], (2, ACTION, b"Exit Boot Services Returned with Failure", None))
    verdict = judged(LOADED, *HONEST[:-2], *failed, *EXIT, actions=[*ACTIONS, "Exit Boot Services Returned with Failure"])
    assert error_ids(verdict) == set()


@pytest.mark.parametrize("name", NAMES)
def test_measured_boots_of_real_firmware_are_in_order(name):
    """Every image that their workloads demand came in time."""
    boot = MeasuredBoot(name)
    verdict = RuntimeStage(boot.table(), [("tpm", boot.log)], boot.images).judge()
    assert error_ids(verdict) == set()


def test_attack_kernel_started_without_its_boot_loader_and_the_rest_made_up_afterwards():
    """The boot option is the kernel itself, without initrd; root is the host's, and what runs from it extends what is demanded."""
    forged = (load(SHIM_CODE), load(GRUB_CODE), READ_CONFIG, READ_INITRD)
    verdict = judged(LOADED, CALLING, load(KERNEL_CODE), OPTIONS, *EXIT, *forged)
    assert error_ids(verdict) == {"rem.event-order", "rem.image-missing"}
    missing = {finding.where["role"] for finding in verdict.findings if finding.id == "rem.image-missing"}
    assert missing == {"boot-loader", "boot-file"}


def test_attack_exit_of_boot_services_hidden_behind_a_digest_that_the_workload_names():
    """The event keeps its digest and loses its text: it is let in by name, and still what it is."""
    exit_text, algorithm = EXIT[0][2], HashAlgorithm.SHA256
    named = [{"rem": 1, "digest": algorithm.digest(exit_text).hex()}]
    hidden: tuple[Event, ...] = ((2, ACTION, b"", exit_text), EXIT[1])
    late = (CALLING, load(KERNEL_CODE), OPTIONS, *hidden, load(SHIM_CODE), load(GRUB_CODE), READ_INITRD)
    assert error_ids(judged((GRUB, SHIM, KERNEL, RAMDISK), *late, digests=named)) == {"rem.event-order", "rem.image-missing"}


def test_attack_chain_of_boot_loaders_cut_short():
    """shim alone is one of two boot loaders. A workload that wants both says ``each``, and then GRUB has to be there, in time."""
    images = (SHIM, GRUB, KERNEL, RAMDISK)
    without = (CALLING, load(SHIM_CODE), load(KERNEL_CODE), OPTIONS, *EXIT, READ_INITRD)
    assert error_ids(judged(images, *without)) == set(), "one of them is what this workload demands"
    verdict = judged(images, *without, required="each")
    assert [(finding.id, finding.expected) for finding in verdict.findings if finding.id.startswith("rem.")] == [
        ("rem.image-missing", GRUB.id)
    ]
    assert "rem.image-missing" in error_ids(judged(images, *without, load(GRUB_CODE), required="each")), "made up afterwards"
    honest = (event for event in HONEST if event is not READ_CONFIG)
    assert error_ids(judged(images, *honest, required="each")) == set()


def test_attack_shim_told_to_start_the_kernel_in_place_of_the_boot_loader():
    """A file of another name on the host's disk, or load options, make shim start a kernel that its key signed."""
    verdict = judged(LOADED, CALLING, load(SHIM_CODE), load(KERNEL_CODE), OPTIONS, *EXIT, READ_CONFIG, READ_INITRD)
    assert error_ids(verdict) == {"rem.image-missing"}


@pytest.mark.parametrize("first", [(load(SHIM_CODE), load(GRUB_CODE), CALLING), (CALLING, load(GRUB_CODE), RETURNING, CALLING)])
def test_attack_boot_loader_that_returned_before_the_kernel_was_started(first):
    """As a SysPrep program, which is loaded before any boot option, or as a boot option that fails."""
    verdict = judged((GRUB, SHIM, KERNEL, RAMDISK), *first, load(KERNEL_CODE), OPTIONS, *EXIT, READ_INITRD)
    assert error_ids(verdict) == {"rem.image-missing"}


@pytest.mark.parametrize("first", [(load(UKI_CODE), CALLING), (CALLING, load(UKI_CODE), RETURNING, CALLING), (CALLING, load(UKI_CODE))])
def test_attack_uki_loaded_and_its_kernel_started_without_it(first):
    """systemd-stub ends at once if it is asked for a profile that it lacks. Then the kernel gets the UKI's command line, and no initrd."""
    without = (*first, load(KERNEL_CODE), OPTIONS, *EXIT)
    assert "rem.image-missing" in error_ids(judged((UKI, KERNEL), *without))
    assert "rem.image-missing" in error_ids(judged((UKI, KERNEL), *without, *STUB)), "made up afterwards"


def test_attack_required_digest_extended_after_the_boot():
    """A boot loader that the workload names by its digest alone."""
    named = [{"rem": 1, "digest": HashAlgorithm.SHA256.digest(GRUB_CODE).hex(), "required": True}]
    images = (KERNEL, RAMDISK)
    good = (CALLING, load(GRUB_CODE), load(KERNEL_CODE), READ_INITRD, OPTIONS, *EXIT)
    assert error_ids(judged(images, *good, digests=named)) == set()
    late = (CALLING, load(KERNEL_CODE), OPTIONS, *EXIT, READ_INITRD, load(GRUB_CODE))
    assert error_ids(judged(images, *late, digests=named)) == {"rem.event-missing"}


DIRECT = (KERNEL, RAMDISK)
MEASURED_BY_THE_KERNEL: Event = (3, TAG, LOAD_OPTIONS, INITRD)


def told(line: str) -> Event:
    """The kernel's event with the text in it, which a guest may put there."""
    return (3, IPL, load_options(line), None)


def test_attack_initrd_read_from_a_file_and_the_good_one_made_up():
    """EDK2 says ``initrd=initrd`` to a kernel from QEMU, which gets its initrd otherwise. A kernel from the host's disk reads that file."""
    rules = {"command_line": {"exact": [f"initrd=initrd {LINE}"]}}
    options = told(f"initrd=initrd {LINE}")
    from_qemu = (load(KERNEL_CODE), CALLING, options, MEASURED_BY_THE_KERNEL, *EXIT)
    assert error_ids(judged(DIRECT, *from_qemu, **rules)) == set()
    from_disk = (CALLING, load(KERNEL_CODE), options, MEASURED_BY_THE_KERNEL, *EXIT)
    assert error_ids(judged(DIRECT, *from_disk, **rules)) == {"rem.image-missing"}
    by_a_loader = (CALLING, load(KERNEL_CODE), READ_INITRD, options, *EXIT)
    assert error_ids(judged(DIRECT, *by_a_loader, **rules)) == set()


@pytest.mark.parametrize("line", ["root=UUID=1initrd=/evil.img", "root=UUID=1 initrd=/evil.img", "root=UUID=dtb=/evil.dtb"])
def test_attack_initrd_smuggled_in_where_a_star_stands(line):
    """Linux's EFI stub looks for ``initrd=`` and ``dtb=`` anywhere in the load options."""
    rules = {"command_line": {"allowed": ["root=UUID=*", "*=*"]}}
    events = (load(KERNEL_CODE), CALLING, told(line), MEASURED_BY_THE_KERNEL, *EXIT)
    assert "rem.command-line" in error_ids(judged(DIRECT, *events, **rules))
    good = (load(KERNEL_CODE), CALLING, told("root=UUID=1"), MEASURED_BY_THE_KERNEL, *EXIT)
    assert error_ids(judged(DIRECT, *good, **rules)) == set()
