"""``kbs-rim workload from igvm``: what an IGVM file has the RMM measure, and the workload of its realm where there can be one."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kbs_rim.cli import EXIT_OK
from kbs_rim.cli.admin_client import connected, print_json, print_table
from kbs_rim.cli.workload_from import client_of, common_options, read_file, register

if TYPE_CHECKING:
    from kbs_rim.measurement.igvm_launch import IgvmLaunch
    from kbs_rim.measurement.rmm import RealmCreate
    from kbs_rim.workload_sources.igvm_draft import IgvmDraft

_RAM = "--ram"


class _Range(click.ParamType[tuple[int, int]]):
    """``BASE,SIZE``, decimal or with 0x."""

    name = "base,size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        try:
            base, size = (int(part, 0) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not two numbers such as 0x80000000,0x40000000", param, ctx)
        if base < 0 or base % 4096 or not 0 < size < 1 << 52 or size % 4096:
            self.fail(f"{value!r} is no range of whole pages", param, ctx)
        return base, size


@click.command("igvm")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@common_options
@click.option(_RAM, type=_Range(), required=True, metavar="BASE,SIZE", help="The realm's RAM, which no IGVM file names.")
@click.option("--ipa-bits", type=click.IntRange(32, 52), help="Width of the realm's addresses; for the RIM.")
@connected
def command(file: Path, ram: tuple[int, int], ipa_bits: int | None, **options: Any) -> int:
    """From the IGVM file FILE (- reads stdin). Lists what the RMM is asked to measure; with --ipa-bits and -c the RIM of RMM 2.0.

    Exit 1 if the file is not for Arm CCA, or if no workload could let its realm in: then the list is shown, and the reason.
    """
    from kbs_rim.cli.workload_from_images import chosen_image
    from kbs_rim.cli.workload_from_view import print_images
    from kbs_rim.measurement.igvm import LARGEST_FILE, parse_igvm
    from kbs_rim.measurement.igvm_launch import read_launch
    from kbs_rim.measurement.vmm.profile import Region
    from kbs_rim.workload_sources.igvm_draft import draft_igvm

    client = client_of(options)
    launch = read_launch(parse_igvm(read_file(file, LARGEST_FILE)))
    if not options["as_json"]:
        _print_launch(launch)
        _print_rims(launch, ipa_bits, options["hosts"])
    drafted = draft_igvm(launch, options["name"], Region(*ram), options["description"])
    images = [chosen_image(image.role, f"{file.name}@{image.base:#x}", image.measurements, client) for image in drafted.images]
    if options["as_json"]:
        print_json(drafted.document)
    else:
        print_images(images)
        _print_open(drafted, launch)
    if options["register"] and client is not None:
        register(client, images, drafted.document, yes=options["yes"], quiet=options["as_json"])
    return EXIT_OK


def _print_launch(launch: "IgvmLaunch") -> None:
    rows: list[tuple[object, ...]] = []
    for run in launch.runs():
        filled = "host-filled parameters" if run.pages[0].host_filled else "not measured"
        rows.append(("data", f"{run.base:#x}", f"{run.base + run.size:#x}", "measured" if run.measured else filled))
    for item in launch.recs:
        state = f"flags={item.rec.flags:#x} x0={item.rec.gprs[0]:#x}"
        rows.append(("rec", f"{item.rec.pc:#x}", "", state))
    print_table("What the loader asks the RMM for", ("operation", "from", "to", ""), rows)
    policy = launch.policy
    if policy is None:
        click.echo("policy: none; the realm's hash is the loader's choice")
    else:
        activation = "may" if policy.live_activation else "may not"
        click.echo(f"policy: {policy.hash_algorithm.value}; the RMM {activation} be replaced while the realm runs")
    if launch.parameters:
        click.echo(f"written by the host and measured by nobody: {', '.join(launch.parameters)}")


def _print_rims(launch: "IgvmLaunch", ipa_bits: int | None, hosts: tuple[str, ...]) -> None:
    from kbs_rim.workload_sources.igvm_draft import igvm_rim

    if ipa_bits is None or not hosts:
        click.echo("kbs-rim: no RIM without --ipa-bits and a host (-c)", err=True)
        return
    found = [(host, _params(launch, ipa_bits, host)) for host in hosts]
    rows = [(host, "2.0", params.hash_algorithm.compact_name, igvm_rim(launch, params).hex()) for host, params in found]
    print_table("RIMs", ("host", "RMM", "hash", "RIM"), rows)


def _params(launch: "IgvmLaunch", ipa_bits: int, host: str) -> "RealmCreate":
    """The parameters of a realm that takes all that the host offers."""
    from kbs_rim.calculator_files import load_host_capabilities
    from kbs_rim.evidence.hash_algorithm import HashAlgorithm
    from kbs_rim.measurement.rmm import RealmCreate, RealmFlags

    known = load_host_capabilities(host)
    if known.num_bps is None or known.num_wps is None:
        raise click.UsageError(f"-c {host}: it does not say how many breakpoints and watchpoints there are")
    algorithm = launch.policy.hash_algorithm if launch.policy else known.hash_algorithm or HashAlgorithm.SHA256
    flags = RealmFlags.SVE if known.sve_vl else RealmFlags(0)
    flags |= RealmFlags.PMU if known.pmu else RealmFlags(0)
    flags |= RealmFlags.LPA2 if known.lpa2 else RealmFlags(0)
    return RealmCreate(
        hash_algorithm=algorithm,
        flags=int(flags),
        s2sz=ipa_bits,
        sve_vl=known.sve_vl // 128 - 1 if known.sve_vl else 0,
        num_bps=known.num_bps - 1,
        num_wps=known.num_wps - 1,
        pmu_num_ctrs=(known.pmu_num_ctrs or 0) if known.pmu else 0,
    )


def _print_open(drafted: "IgvmDraft", launch: "IgvmLaunch") -> None:
    from kbs_rim.cli.workload_from_view import print_list

    lines = ["RAM, width of addresses, breakpoints, SVE, PMU: no IGVM file says them. RAM is as given; SVE and PMU stay refused"]
    if drafted.workload.entry.role.value == "firmware":
        lines.append("what the firmware starts: with REMs of zero nothing tells; write the table runtime")
    if launch.policy is not None and launch.policy.live_activation:
        lines.append("the RMM may be replaced while the realm runs: the platform's token says by what")
    print_list("Left open by the file", lines)
