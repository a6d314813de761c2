"""``kbs-rim workload from``: a workload for a VM that is defined already, for review and registration."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kbs_rim.cli import EXIT_OK
from kbs_rim.cli.admin_client import connect, connected, print_json

if TYPE_CHECKING:
    from kbs_rim.cli.admin_client import AdminClient
    from kbs_rim.cli.workload_from_images import ChosenImage
    from kbs_rim.measurement.vmm.definition import VmDefinition, Vmm
    from kbs_rim.workload_sources.draft import Draft
    from kbs_rim.workload_sources.subject import DraftSubject

_F = TypeVar("_F", bound=Callable[..., Any])
_FILE = click.Path(path_type=Path, dir_okay=False, allow_dash=True)
_LARGEST_FILE = 2 * 1024 * 1024
_COMMON = (
    click.option("--name", required=True, help="The workload's name."),
    click.option("--description", default="", help="For people, up to 1000 characters."),
    click.option("-c", "--host", "hosts", multiple=True, metavar="HOST|FILE",
                 help="A kind of host that may run it: fvp, qemu-max-8.2, a TOML file, or parts joined as fvp+kvm. Repeat for others."),
    click.option("--register", is_flag=True, help="Register images that are missing, then the workload."),
    click.option("--yes", is_flag=True, help="Register without asking."),
)  # fmt: skip
_DRAFTED = (
    click.option("--image", "images", multiple=True, metavar="ROLE=FILE|ROLE=sha256:ID",
                 help="The kernel, initrd or firmware, where it is not where the definition says; repeat."),
    click.option("--profile", metavar="NAME|FILE", help="The VMM's version: a shipped profile or a TOML file."),
    click.option("--rmm", "versions", multiple=True, type=click.Choice(["1.0", "2.0"]), help="Whose rules measure it; repeat. [both]"),
    click.option("--page-size", "page_sizes", multiple=True, type=click.Choice(["4096", "16384", "65536"]),
                 help="Page size of the hosts; repeat. [4096]"),
    click.option("--hash-algo", type=click.Choice(["sha256", "sha384", "sha512"]), help="The realm's hash, if the definition is silent."),
    click.option("--tree", type=click.Choice(["auto", "registered", "rules"]), default="auto", show_default=True,
                 help="Name the device tree byte for byte, or judge it by rules. auto: by rules, unless the tree is a given file."),
    click.option("--dtb", type=_FILE, help="The device tree that the VMM loads (-dtb of QEMU, --dtb of kvmtool)."),
    click.option("--exact-addresses", is_flag=True, help="Images may lie only where this version of the VMM puts them."),
)  # fmt: skip
_QEMU = (
    click.option("--qemu-version", metavar="VERSION", help="The emulator's version, such as 10.0.13: its own device tree is loaded."),
    click.option("--host-address-bits", type=click.IntRange(32, 52), help="With --qemu-version: bits of guest addresses under KVM."),
)  # fmt: skip
_COMMAND = click.option("--command", "command_file", type=_FILE, help="File with the command line (- reads stdin), or /proc/PID/cmdline.")


def with_options(*options: Callable[[_F], _F]) -> Callable[[_F], _F]:
    """Add options to a command, in the order in which the help shows them."""

    def add(command: _F) -> _F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


common_options = with_options(*_COMMON)


@click.group("from")
def command() -> None:
    """Make a workload of a VM's definition: shown for review, and registered with --register.

    Images are hashed here. Every rule is as narrow as what is known; what the definition leaves open is listed.
    """


@command.command("qemu-args")
@with_options(_COMMAND, *_COMMON, *_DRAFTED, *_QEMU)
@connected
@click.argument("arguments", metavar="-- VMM ARGUMENTS", nargs=-1, type=click.UNPROCESSED)
def qemu_args(command_file: Path | None, arguments: tuple[str, ...], **options: Any) -> int:
    """From QEMU's command line: behind --, or in the file of --command."""
    return draft("qemu", _words(command_file, arguments), (), options, typed=True)


@command.command("kvmtool-args")
@with_options(_COMMAND, *_COMMON, *_DRAFTED)
@connected
@click.argument("arguments", metavar="-- VMM ARGUMENTS", nargs=-1, type=click.UNPROCESSED)
def kvmtool_args(command_file: Path | None, arguments: tuple[str, ...], **options: Any) -> int:
    """From the command line of lkvm run: behind --, or in the file of --command."""
    return draft("kvmtool", _words(command_file, arguments), (), options, typed=True)


@command.command("libvirt-xml")
@click.argument("file", type=_FILE)
@with_options(*_COMMON, *_DRAFTED, *_QEMU)
@connected
def libvirt_xml(file: Path, **options: Any) -> int:
    """From a libvirt domain in FILE (- reads stdin), as virsh dumpxml --inactive prints it."""
    from kbs_rim.measurement.vmm.libvirt_domain import read_libvirt_domain
    from kbs_rim.measurement.vmm.stock_qemu_profile import qemu_version

    version = options["qemu_version"]
    domain = read_libvirt_domain(read_file(file, _LARGEST_FILE), None if version is None else qemu_version(version).version)
    return draft("qemu", domain.arguments, domain.remarks, options)


@command.command("cloud-hypervisor-json")
@click.argument("file", type=_FILE)
@with_options(*_COMMON, *_DRAFTED)
@connected
def cloud_hypervisor_json(file: Path, **options: Any) -> int:
    """From a VmConfig of cloud-hypervisor in FILE (- reads stdin), or what ch-remote info prints."""
    from kbs_rim.measurement.vmm.cloud_hypervisor_json import cloud_hypervisor_arguments

    return draft("cloud-hypervisor", cloud_hypervisor_arguments(read_file(file, _LARGEST_FILE)), (), options)


def read_file(file: Path, most: int) -> bytes:
    """Read a file or stdin (``-``), at most one byte more than ``most``."""
    with click.open_file(str(file), "rb") as stream:
        data: bytes = stream.read(most + 1)
    return data


def _words(file: Path | None, arguments: tuple[str, ...]) -> tuple[str, ...]:
    from kbs_rim.measurement.vmm.command_text import command_words, unexpanded

    if (file is None) == (not arguments):
        raise click.UsageError("the VMM's command line stands behind --, or in the file of --command: give one of them")
    if file is None:
        return arguments
    words = command_words(read_file(file, _LARGEST_FILE).decode("utf-8", "surrogateescape"))
    if unexpanded(words):
        click.echo(f"kbs-rim: nothing is expanded here: {', '.join(map(ascii, unexpanded(words)))[:200]}", err=True)
    return words


def draft(vmm: "Vmm", arguments: Sequence[str], remarks: Sequence[str], options: dict[str, Any], *, typed: bool = False) -> int:
    """Do everything behind the reading of a definition: images, device tree, workload, review, registration.

    ``typed`` arguments that are wrong are a matter of usage; those that were made of a file are refused.
    """
    from kbs_rim.cli.workload_from_images import choose_images, chosen_image, pairs_of
    from kbs_rim.errors import InvalidDocument
    from kbs_rim.measurement.vmm.arguments import parse_arguments
    from kbs_rim.measurement.vmm.named_files import named_files
    from kbs_rim.workload_sources.draft import draft_workload

    given, client = pairs_of(options["images"]), client_of(options)
    try:
        definition = parse_arguments(vmm, arguments)
        named = named_files(vmm, arguments)
    except InvalidDocument as error:
        if typed:
            raise click.UsageError(str(error)) from None
        raise
    definition = replace(definition, remarks=(*remarks, *definition.remarks))
    images = choose_images(definition.images, named, given, client)
    subject = _subject(definition, arguments, named.get("device-tree"), images, options)
    drafted = draft_workload(subject)
    trees = [chosen_image("device-tree", f"{subject.name}.dtb", tree, client) for tree in drafted.trees]
    _show(subject, drafted, [*images, *trees], options)
    if options["register"] and client is not None:
        register(client, [*images, *trees], drafted.document, yes=options["yes"], quiet=options["as_json"])
    return EXIT_OK


def client_of(options: dict[str, Any]) -> "AdminClient | None":
    """Connect if a token is there or something shall be registered."""
    try:
        return connect(options["url"], options["token_file"], options["ca_file"])
    except click.UsageError:
        if options["register"]:
            raise
        return None


def _subject(
    definition: "VmDefinition", arguments: Sequence[str], tree_file: str | None, images: "Sequence[ChosenImage]", options: dict[str, Any]
) -> "DraftSubject":
    from kbs_rim.calculator_files import load_host_capabilities, load_vmm_profile
    from kbs_rim.evidence.hash_algorithm import HashAlgorithm
    from kbs_rim.measurement.rmm import RmmVersion
    from kbs_rim.measurement.vmm.shipped_profiles import DEFAULTS
    from kbs_rim.workload_sources.draft import usable_versions
    from kbs_rim.workload_sources.subject import DraftSubject, HostChoice

    profile = DEFAULTS[definition.vmm] if options["profile"] is None else load_vmm_profile(options["profile"])
    if profile.vmm != definition.vmm:
        raise click.UsageError(f"--profile: {profile.name} is a profile of {profile.vmm}, not of {definition.vmm}")
    if options["hash_algo"] is not None and definition.hash_algorithm is None:
        definition = replace(definition, hash_algorithm=HashAlgorithm.from_name(options["hash_algo"]))
    subject = DraftSubject(
        name=options["name"],
        description=options["description"],
        definition=definition,
        profile=profile,
        images={image.role: image.measurements for image in images},
        hosts=tuple(HostChoice(name, load_host_capabilities(name)) for name in dict.fromkeys(options["hosts"])),
        versions=usable_versions(tuple(map(RmmVersion, options["versions"] or ("1.0", "2.0"))), definition.hash_algorithm),
        page_sizes=tuple(map(int, options["page_sizes"] or ("4096",))),
        exact_addresses=options["exact_addresses"],
    )
    return _with_tree(subject, arguments, tree_file, options)


def _with_tree(subject: "DraftSubject", arguments: Sequence[str], tree_file: str | None, options: dict[str, Any]) -> "DraftSubject":
    """Decide which device tree is loaded: a file, the emulator's own, or the profile's."""
    from kbs_rim.cli.measure_images import read_tree
    from kbs_rim.cli.workload_from_tree import stock_tree
    from kbs_rim.evidence.printable import printable

    tree = None
    if options["dtb"] is not None:
        tree = read_tree(options["dtb"])
    elif tree_file and Path(tree_file).is_file():
        tree = read_tree(Path(tree_file))
    elif tree_file:
        raise click.UsageError(f"the VMM is told to load the device tree {tree_file[:200]}, which is not here: give it with --dtb")
    elif options.get("qemu_version"):
        subject = stock_tree(subject, arguments, options["qemu_version"], options["host_address_bits"])
        tree = subject.tree
    if tree is None and subject.definition.tree_changes:
        raise click.UsageError(f"{printable(subject.definition.tree_changes[0])}, in a way that is not modelled: give the tree with --dtb")
    wanted = options["tree"]
    registered = wanted == "registered" or (wanted == "auto" and tree is not None and not subject.stock_tree)
    return replace(subject, tree=tree, tree_mode="registered" if registered else "rules")


def _show(subject: "DraftSubject", drafted: "Draft", images: "Sequence[ChosenImage]", options: dict[str, Any]) -> None:
    from kbs_rim.cli.workload_from_view import print_review
    from kbs_rim.workload_sources.review import review_of

    review = review_of(subject, drafted)
    poor = [f"the {image.role} {image.name} is {image.state} in the registry" for image in images if image.state not in (None, "active")]
    review = replace(review, warnings=(*poor, *review.warnings))
    if not options["as_json"]:
        print_review(subject.name, review, images)
        return
    print_json(drafted.document)
    for warning in review.warnings:
        click.echo(f"kbs-rim: warning: {warning}", err=True)


def register(client: "AdminClient", images: "Sequence[ChosenImage]", document: Any, *, yes: bool, quiet: bool) -> None:
    """Register missing images and the workload, after a question unless ``yes``; ``quiet`` leaves stdout to the document."""
    from kbs_rim.cli.workload_from_images import register_missing

    missing = sum(image.missing for image in images)
    if not yes and not (sys.stdin.isatty() or quiet):
        click.echo("kbs-rim: the answer is read from stdin; --yes registers without asking", err=True)
    if not yes and not click.confirm(f"Register {missing} images and the workload {document['name']}?", err=True):
        raise click.ClickException("nothing was registered")
    for line in register_missing(images, client):
        click.echo(line, err=quiet)
    answer = client.send("POST", "/admin/v1/workloads", document)
    click.echo(f"workload {answer['name']} revision {answer['revision']}", err=quiet)
