"""``kbs-rim measure``: RIM and REMs of a VM from the command line that starts it, without the machine."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from kbs_rim.cli import EXIT_OK
from kbs_rim.cli.measure_stock import stock_options, stock_tree
from kbs_rim.errors import InvalidDocument

if TYPE_CHECKING:
    from kbs_rim.cli.measure_images import ImageFile
    from kbs_rim.cli.measure_stock import StockTree
    from kbs_rim.measurement.rmm import RmmVersion
    from kbs_rim.measurement.vmm.calculation import MeasurementPlan
    from kbs_rim.measurement.vmm.definition import Role, VmDefinition, Vmm
    from kbs_rim.measurement.vmm.host_capabilities import HostCapabilities
    from kbs_rim.measurement.vmm.profile import VmRequest
    from kbs_rim.measurement.vmm.request import EffectiveHost
    from kbs_rim.measurement.vmm.vmm_profile import VmmProfile

_Function = TypeVar("_Function", bound=Callable[..., Any])
_FILE = click.Path(path_type=Path, dir_okay=False)
_TREE = click.Path(path_type=Path, dir_okay=False, allow_dash=True)
_USAGE = "kbs-rim measure VMM [OPTIONS] -- VMM ARGUMENTS"
_ARGUMENTS, _WITHOUT_DASHES = "kbs_rim.vmm_arguments", "kbs_rim.vmm_arguments_without_dashes"
_ALIASES = {"cloud-hv": "cloud-hypervisor"}
_HASHES = ("sha256", "sha384", "sha512")
_CAPABILITIES = ("ipa_bits", "num_bps", "num_wps", "sve_vl", "pmu_num_ctrs", "pmu", "lpa2")
_OPTIONS = (
    click.option("-k", "--kernel", type=_FILE, help="The kernel: an arm64 Linux Image, or one packed with gzip."),
    click.option("-i", "--initrd", type=_FILE, help="The initrd."),
    click.option("-f", "--firmware", type=_FILE, help="The firmware."),
    click.option("-c", "--config", "configs", multiple=True, metavar="HOST|FILE",
                 help="Host capabilities: fvp, qemu-max-8.2, kvm, rmm-1.0-eac5, or a TOML file. Repeatable; the lower value counts."),
    click.option("--ipa-bits", type=click.IntRange(32, 52), help="Largest IPA width of the host, in bits."),
    click.option("--num-bps", type=click.IntRange(2, 64), help="Breakpoints of the host."),
    click.option("--num-wps", type=click.IntRange(2, 64), help="Watchpoints of the host."),
    click.option("--sve-vl", type=click.IntRange(0, 2048), help="Longest SVE vector in bits; 0 for none."),
    click.option("--pmu-num-ctrs", type=click.IntRange(0, 31), help="PMU counters of the host."),
    click.option("--pmu", type=click.BOOL, help="Whether the host has a PMU for realms (true or false)."),
    click.option("--lpa2", type=click.BOOL, help="Whether the host has LPA2 (true or false)."),
    click.option("--hash-algo", type=click.Choice(_HASHES), help="The realm's hash where the VMM does not choose one."),
    click.option("--rmm", type=click.Choice(["1.0", "2.0"]), help="Whose rules measure the realm. Default: 1.0."),
    click.option("--profile", metavar="NAME|FILE", help="Another version of the VMM: a shipped profile or a TOML file."),
    click.option("--host-page", type=click.Choice(["4k", "16k", "64k"]),
                 help="Page size of the host, to which a VMM rounds what it loads. Default: 4k."),
    click.option("--memory-private", is_flag=True, help="The realm has a memory encryption key of its own (RMM 2.0)."),
    click.option("--device-assignment", is_flag=True, help="The realm may have assigned devices."),
    click.option("--dtb", type=_TREE, help="Measure this device tree as it is (- reads stdin)."),
    click.option("--dtb-template", type=_TREE, help="Patch this device tree, dumped from a VMM, instead of making one."),
    click.option("--output-dtb", type=_TREE, help="Write the device tree that is measured (- writes it to stdout, the rest to stderr)."),
    click.option("--corim", type=_FILE, help="Write RIM, REMs and RPV as a CoRIM for Veraison, unsigned (see kbs-rim corim sign)."),
    click.option("--legacy-comid", "--endorsements-output", type=_FILE, help="Write the CoMID in JSON that cca-realm-measurements writes."),
    click.option("--comid-template", "--endorsements-template", type=_FILE, help="What that CoMID takes its identity from."),
    click.option("--no-measurements", is_flag=True, help="Check the arguments and make the device tree, but hash nothing."),
    click.option("--print-b64", is_flag=True, help="Print the registers in base64 instead of hex."),
    click.option("--json", "as_json", is_flag=True, help="Print JSON."),
    click.option("--explain", is_flag=True, help="List each operation: the RIM after it, how many times it extended the RIM, what it was."),
    click.option("--explain-all", is_flag=True, help="The same for each RTT entry and granule, which are many."),
    click.option("-q", "--quiet", is_flag=True, help="Do not say what is ignored, or may not be as meant."),
    click.option("-v", "--verbose", count=True, help="Say where everything lies."),
)  # fmt: skip


def _measured(command: _Function) -> _Function:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


_SHORT_WITH_SIGN = re.compile(r"(-[kifc])=(.+)", re.DOTALL)


def _without_signs(args: Sequence[str]) -> list[str]:
    """Write ``-k=FILE``, which realm-measurements takes as well, as ``-k FILE``."""
    found: list[str] = []
    for word in args:
        match = _SHORT_WITH_SIGN.fullmatch(word)
        found.extend(match.groups() if match else (word,))
    return found


class _Group(click.Group):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        position = args.index("--") if "--" in args else len(args)
        return super().parse_args(ctx, [*_without_signs(args[:position]), *args[position:]])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, _ALIASES.get(cmd_name, cmd_name))


class _Command(click.Command):
    """Options stand before ``--``, what the VMM is started with behind it."""

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "-- VMM ARGUMENTS"]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        position = args.index("--") if "--" in args else len(args)
        ctx.meta[_ARGUMENTS] = tuple(args[position + 1 :])
        try:
            return super().parse_args(ctx, args[:position])
        except click.BadParameter:
            raise
        except click.UsageError as error:
            if position < len(args):
                raise
            if not _options_before(ctx):
                hint = f"what the VMM is started with stands behind --: {_USAGE}"
                raise click.UsageError(f"{error.format_message()} ({hint})", ctx=error.ctx) from None
        # As realm-measurements has it: its own options, the VMM's name, the VMM's arguments.
        ctx.meta[_ARGUMENTS], ctx.meta[_WITHOUT_DASHES] = tuple(args), True
        ctx.params.clear()
        return super().parse_args(ctx, [])


def _options_before(ctx: click.Context) -> bool:
    """Whether options stand in front of the VMM's name."""
    group = ctx.parent
    given = click.core.ParameterSource.COMMANDLINE
    return group is not None and any(group.get_parameter_source(name) is given for name in group.params)


@click.group(name="measure", cls=_Group)
@_measured
@stock_options
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Compute what a VM will measure, from the command line that starts it.

    The options may stand before the VMM's name as well. Image files are local; what the VMM's own options call them does not matter.
    """
    ctx.obj = options


@command.command(cls=_Command)
@_measured
@stock_options
@click.pass_context
def qemu(ctx: click.Context, /, **options: Any) -> int:
    """Measure a realm of QEMU's virt machine: kbs-rim measure qemu -c HOST -k IMAGE -- QEMU'S ARGUMENTS."""
    return _measure(ctx, "qemu", options)


@command.command(cls=_Command)
@_measured
@click.pass_context
def kvmtool(ctx: click.Context, /, **options: Any) -> int:
    """Measure a realm of kvmtool: kbs-rim measure kvmtool -c HOST -k IMAGE -- ARGUMENTS OF lkvm run."""
    return _measure(ctx, "kvmtool", options)


@command.command(name="cloud-hypervisor", cls=_Command)
@_measured
@click.pass_context
def cloud_hypervisor(ctx: click.Context, /, **options: Any) -> int:
    """Measure a realm of cloud-hypervisor: kbs-rim measure cloud-hypervisor -c HOST -k IMAGE -- ITS ARGUMENTS."""
    return _measure(ctx, "cloud-hypervisor", options)


@dataclass(frozen=True, slots=True)
class _Subject:
    """What is measured: the VM as defined, the VMM's version, the host, the RMM's version, the image files by role, QEMU's own tree."""

    definition: "VmDefinition"
    profile: "VmmProfile"
    host: "EffectiveHost"
    rmm: "RmmVersion"
    files: Mapping[str, "ImageFile"]
    stock: "StockTree | None"


def _measure(ctx: click.Context, vmm: "Vmm", own: dict[str, Any]) -> int:
    from kbs_rim.cli.measure_view import tree_notes

    options = _joined(ctx, own)
    _check(options)
    subject, notes = _subject(vmm, ctx.meta[_ARGUMENTS], options)
    if ctx.meta.get(_WITHOUT_DASHES):
        notes.insert(0, f"no -- stands there: everything behind {vmm} is taken for its arguments")
    plan = _plan(subject, options)
    if not options["quiet"]:
        for note in notes:
            click.echo(f"kbs-rim: {note}", err=True)
    if options["dtb"] is not None and not options["quiet"]:
        for note in tree_notes(plan.layout, subject.definition.topology.count):
            click.echo(f"kbs-rim: --dtb: {note}", err=True)
    if options["output_dtb"] is not None:
        with click.open_file(str(options["output_dtb"]), "wb") as stream:
            stream.write(plan.layout.device_tree)
    _print(subject, plan, options)
    return EXIT_OK


def _subject(vmm: "Vmm", arguments: Sequence[str], options: dict[str, Any]) -> tuple[_Subject, list[str]]:
    from kbs_rim.cli.measure_view import notes_of
    from kbs_rim.measurement.rmm import RmmVersion
    from kbs_rim.measurement.vmm.arguments import parse_arguments
    from kbs_rim.measurement.vmm.request import effective_host

    if options.get("host_pmu") is not None and options["pmu"] is None:
        options["pmu"] = options["host_pmu"]
    profile, capabilities = _profile(vmm, options["profile"]), _host(options)
    try:
        stock, definition = stock_tree(arguments, parse_arguments(vmm, arguments), options)
        host = effective_host(definition, capabilities, profile)
    except InvalidDocument as error:
        _usage(error)
    files, unused = _images(definition, options)
    notes = [*notes_of(definition, host), *unused]
    if definition.tree_given is False and options["dtb"] is None and stock is None:
        other = ", or measure QEMU's with --qemu-version" if vmm == "qemu" else ""
        notes.append(f"{vmm} is not told to load a device tree and would make its own; give it the one of --output-dtb{other}")
    return _Subject(definition, profile, host, RmmVersion(options["rmm"] or "1.0"), files, stock), notes


def _joined(ctx: click.Context, own: dict[str, Any]) -> dict[str, Any]:
    """Options before the VMM's name, overridden by those behind it; what is repeatable adds up."""
    outer: dict[str, Any] = ctx.obj or {}
    joined = dict(own)
    for name, value in outer.items():
        if name == "configs":
            joined[name] = (*value, *own[name])
        elif name not in own or ctx.get_parameter_source(name) is click.core.ParameterSource.DEFAULT:
            joined[name] = value
    return joined


def _check(options: dict[str, Any]) -> None:
    if options["dtb"] is not None and options["dtb_template"] is not None:
        raise click.UsageError("--dtb measures a tree as it is, --dtb-template changes it: give one of them")
    if options["no_measurements"] and (options["explain"] or options["explain_all"] or options["print_b64"]):
        raise click.UsageError("--no-measurements leaves nothing to print or explain")
    if options["no_measurements"] and (options["corim"] or options["legacy_comid"]):
        raise click.UsageError("--no-measurements leaves nothing to write into a CoRIM or CoMID")
    if options["comid_template"] is not None and options["legacy_comid"] is None:
        raise click.UsageError("--comid-template is for --legacy-comid")


def _profile(vmm: "Vmm", name: str | None) -> "VmmProfile":
    from kbs_rim.calculator_files import load_vmm_profile
    from kbs_rim.measurement.vmm.shipped_profiles import DEFAULTS

    profile = DEFAULTS[vmm] if name is None else load_vmm_profile(name)
    if profile.vmm != vmm:
        raise click.UsageError(f"--profile: {profile.name} is a profile of {profile.vmm}, not of {vmm}")
    return profile


def _host(options: dict[str, Any]) -> "HostCapabilities":
    from kbs_rim.calculator_files import load_host_capabilities
    from kbs_rim.errors import ConfigurationError
    from kbs_rim.evidence.hash_algorithm import HashAlgorithm
    from kbs_rim.measurement.vmm.host_capabilities import HostCapabilities

    merged = HostCapabilities()
    for name in options["configs"]:
        try:
            merged = merged.restricted_by(load_host_capabilities(name))
        except ConfigurationError as error:
            raise ConfigurationError(f"--config: {error}") from error
    algorithm = options["hash_algo"]
    given = {name: options[name] for name in _CAPABILITIES}
    try:
        own = HostCapabilities(**given, hash_algorithm=None if algorithm is None else HashAlgorithm.from_name(algorithm))
    except InvalidDocument as error:
        raise click.UsageError(str(error)) from None
    return merged.overridden_by(own)


def _images(definition: "VmDefinition", options: dict[str, Any]) -> "tuple[dict[str, ImageFile], list[str]]":
    """Open the files of the images that the VM loads, and list those that it does not."""
    from kbs_rim.cli.measure_images import open_image

    files: dict[str, ImageFile] = {}
    unused = []
    roles: tuple[Role, ...] = ("kernel", "initrd", "firmware")
    for role in roles:
        path = options[role]
        if role in definition.images and path is None:
            raise click.UsageError(f"the VM loads {'an' if role == 'initrd' else 'a'} {role}: name its file with --{role} FILE")
        if role in definition.images:
            files[role] = open_image(role, path)
        elif path is not None:
            unused.append(f"--{role} is not used: the VM loads none")
    return files, unused


def _plan(subject: _Subject, options: dict[str, Any]) -> "MeasurementPlan":
    from kbs_rim.evidence.printable import printable
    from kbs_rim.limits import KIB
    from kbs_rim.measurement.vmm.calculation import RealmExtras, plan_measurement
    from kbs_rim.measurement.vmm.request import request_of

    definition = subject.definition
    if definition.tree_changes and options["dtb"] is None:
        raise click.UsageError(f"{printable(definition.tree_changes[0])}, in a way that is not modelled: give the tree itself with --dtb")
    try:
        request = request_of(definition, subject.host, {role: file.loaded for role, file in subject.files.items()})
        tree = _tree(subject, request, options)
    except InvalidDocument as error:
        _usage(error)
    extras = RealmExtras(
        memory_private=options["memory_private"],
        device_assignment=options["device_assignment"],
        host_page_size=KIB * int((options["host_page"] or "4k").removesuffix("k")),
    )
    return plan_measurement(subject.profile, request, subject.rmm, tree, extras)


def _tree(subject: _Subject, request: "VmRequest", options: dict[str, Any]) -> bytes | None:
    from kbs_rim.cli.measure_images import read_tree
    from kbs_rim.measurement.vmm.tree_template import patch_template

    profile = subject.profile
    if subject.stock is not None:
        return subject.stock.make(profile, request, subject.host)
    if options["dtb_template"] is not None:
        return patch_template(profile, request, read_tree(options["dtb_template"]))
    if options["dtb"] is None:
        return None
    data = read_tree(options["dtb"])
    if profile.tree_size is not None and len(data) < profile.tree_size and not options["quiet"]:
        click.echo(f"kbs-rim: {profile.name} loads {profile.tree_size} bytes; zero bytes follow the {len(data)} of --dtb", err=True)
    return data


def _print(subject: _Subject, plan: "MeasurementPlan", options: dict[str, Any]) -> None:
    from kbs_rim.cli import measure_view as view
    from kbs_rim.cli.corim_measured import write_measured
    from kbs_rim.cli.measure_images import hash_images, progress_of
    from kbs_rim.measurement.vmm.calculation import calculate, steps_of

    if options["verbose"]:
        for place in plan.layout.loads:
            click.echo(f"kbs-rim: {place.role} at {place.base:#x}, {place.size} bytes", err=True)
    to_stderr = str(options["output_dtb"]) == "-"
    calculation, steps = None, None
    if not options["no_measurements"]:
        with progress_of(sum(file.loaded.size for file in subject.files.values())) as progress:
            granules, digests = hash_images(plan, subject.files, progress)
        calculation = calculate(plan, subject.rmm, granules, digests)
        if options["explain_all"]:
            steps = steps_of(plan, subject.rmm, granules, each=True)
        elif options["explain"]:
            steps = iter(calculation.steps)
    if calculation is not None and (options["corim"] or options["legacy_comid"]):
        paths = {name: options[name] for name in ("corim", "legacy_comid", "comid_template")}
        write_measured(calculation.rim, calculation.rem, subject.definition.rpv, label=subject.profile.name, **paths)
    if options["as_json"]:
        document = view.document_of(subject.definition, subject.profile, subject.host, plan, subject.rmm, calculation)
        stock = {"qemu_version": subject.stock.version} if subject.stock is not None else {}
        view.print_json({**document, **stock}, steps, err=to_stderr)
    elif calculation is not None:
        if steps is not None:
            view.print_steps(steps, err=to_stderr)
        view.print_registers(calculation, as_base64=options["print_b64"], err=to_stderr)


def _usage(error: InvalidDocument) -> NoReturn:
    """What is wrong with the words of the command line is a matter of usage; a VM that cannot be is refused."""
    if error.finding_id in ("document.vm-arguments", "document.host"):
        raise click.UsageError(str(error)) from None
    raise error
