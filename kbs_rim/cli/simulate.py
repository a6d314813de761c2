"""``kbs-rim simulate``: build a realm from image files on a model of the RMM, and let it answer a challenge."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kbs_rim.cli import EXIT_OK

if TYPE_CHECKING:
    from kbs_rim.realm.lies import Lie
    from kbs_rim.realm.platform_identity import PlatformIdentity
    from kbs_rim.realm.simulator import SimulatedRealm, Simulation
    from kbs_rim.realm.vm_builder import VmDefinition, VmFiles

_FILE = click.Path(path_type=Path, dir_okay=False)
_UNITS = {"": 1 << 20, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_PAGES = {"4k": 4096, "16k": 16384, "64k": 65536}
_CHALLENGE_SIZE = 64
_OUTPUTS = ("challenge", "token_out", "log_out", "dtb_out", "evidence_out", "endorsements_out", "cpak_out", "as_json")


class _MemorySize(click.ParamType[int]):
    """A size as VMMs take it: a number with K, M or G, MiB without."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = re.fullmatch(r"([0-9]{1,12})([KMG]?)", str(value))
        if match is None:
            self.fail(f"{value!r} is no size such as 512M or 2G", param, ctx)
        return int(match[1]) * _UNITS[match[2]]


class _HexBytes(click.ParamType[bytes]):
    """Bytes in hex."""

    name = "hex"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bytes:
        try:
            return bytes.fromhex(value)
        except ValueError:
            self.fail(f"{value!r} is not hex", param, ctx)


class _Extend(click.ParamType[tuple[int, bytes]]):
    """``INDEX=HEX`` with the RSI index 1 to 4 of REM0 to REM3."""

    name = "index=hex"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, bytes]:
        match = re.fullmatch(r"([1-4])=((?:[0-9A-Fa-f]{2}){0,64})", str(value))
        if match is None:
            self.fail("write INDEX=HEX with an index from 1 (REM0) to 4 (REM3) and at most 64 bytes", param, ctx)
        return int(match[1]), bytes.fromhex(match[2])


class _LieName(click.ParamType["Lie"]):
    """The name of a lie; the list is loaded when it is needed."""

    name = "lie"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> "Lie":
        from kbs_rim.realm.lies import Lie

        try:
            return Lie(value)
        except ValueError:
            self.fail(f"unknown lie {value!r}; --list-lies shows them", param, ctx)


def _list_lies(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from kbs_rim.realm.lies import LIES

    for lie, distortion in LIES.items():
        click.echo(f"{lie.value:28} {distortion.about}")
        click.echo(f"{'':28} expected: {', '.join(sorted(distortion.findings))}")
    ctx.exit()


_Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
_VM_OPTIONS: tuple[_Decorator, ...] = (
    click.option("--vmm", type=click.Choice(["qemu", "kvmtool"]), required=True, help="Whose layout the VM has."),
    click.option("--boot", type=click.Choice(["kernel", "firmware"]), default="kernel", show_default=True, help="What starts first."),
    click.option("--kernel", type=_FILE, help="arm64 Linux Image, or gzip of one."),
    click.option("--initrd", type=_FILE),
    click.option("--firmware", type=_FILE),
    click.option("--dtb", type=_FILE, help="Device tree [default: generated as the VMM does]."),
    click.option("--cpus", type=click.IntRange(1, 512), default=1, show_default=True),
    click.option("--memory", type=_MemorySize(), default="512M", show_default=True, help="RAM; MiB without K, M or G."),
    click.option("--append", help="Kernel command line."),
    click.option("--rpv", type=_HexBytes(), default="", help="Realm personalization value, up to 64 bytes."),
    click.option("--pmu", is_flag=True, help="Give the realm a PMU."),
    click.option("--no-its", is_flag=True, help="No interrupt translation service."),
    click.option("--no-log", is_flag=True, help="Reserve no log area (the log is written all the same)."),
    click.option("--breakpoints", type=click.IntRange(2, 64), default=2, show_default=True),
    click.option("--watchpoints", type=click.IntRange(2, 64), default=2, show_default=True),
    click.option("--pmu-counters", type=click.IntRange(0, 31), default=0, show_default=True),
    click.option("--sve-bits", type=click.IntRange(0, 2048), default=0, show_default=True, help="Vector length; 0 is no SVE."),
    click.option("--private-memory", is_flag=True, help="An encryption key of its own (RMM 2.0)."),
)
_REALM_OPTIONS: tuple[_Decorator, ...] = (
    click.option("--rmm", type=click.Choice(["1.0", "2.0"]), default="1.0", show_default=True),
    click.option("--hash", "hash_", type=click.Choice(["sha256", "sha384", "sha512"]), default="sha256", show_default=True),
    click.option("--order", type=click.Choice(["log", "ripas-last"]), default="log", show_default=True, help="When RIPAS is set."),
    click.option("--rounding", type=click.Choice(list(_PAGES)), default="4k", show_default=True, help="Page size of the host."),
    click.option("--log-style", help="qemu, qemu-documented, kvmtool or kvmtool-old [default: the VMM's]."),
    click.option("--log-before-rec", is_flag=True, help="Populate the log before the vCPUs, as older kvmtool does."),
    click.option("--extend", "extends", type=_Extend(), multiple=True, help="The running realm extends a REM; repeatable."),
    click.option("--platform", type=_FILE, help="The simulated platform's file [default: one that is thrown away]."),
    click.option("--new-platform", is_flag=True, help="Make the platform's file if it is missing."),
    click.option("--curve", type=click.Choice(["P-256", "P-384"]), default="P-384", show_default=True, help="Of a new platform's key."),
    click.option("--form", type=click.Choice(["399", "907"]), default="907", show_default=True, help="Outer CBOR tag of tokens."),
    click.option("--profile", type=click.Choice(["legacy", "2023-2023", "2023-2024", "2024-2024"]), default="2023-2023", show_default=True),
    click.option("--mec", type=click.Choice(["none", "text", "integer"]), help="Spelling of claim 44243 [default: the profile's]."),
    click.option(
        "--send-dtb", type=click.Choice(["none", "envelope", "log"]), default="none", show_default=True, help="Send the device tree."
    ),
    click.option("--lie", type=_LieName(), help="Tell a lie, see --list-lies."),
)


def _with_options(*groups: Sequence[_Decorator]) -> _Decorator:
    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed([option for group in groups for option in group]):
            function = option(function)
        return function

    return decorate


@click.command("simulate")
@_with_options(_VM_OPTIONS, _REALM_OPTIONS)
@click.option("--challenge", type=_HexBytes(), help="64 bytes that the token answers.")
@click.option("--token-out", type=_FILE, help="Write the CCA token.")
@click.option("--log-out", type=_FILE, help="Write the VMM's log.")
@click.option("--dtb-out", type=_FILE, help="Write the device tree as loaded.")
@click.option("--evidence-out", type=_FILE, help="Write token and log in the JSON envelope.")
@click.option(
    "--endorsements-out", type=_FILE, help="Write trust anchor and reference values: CoMID if the name ends in .json, else CoRIM."
)
@click.option("--cpak-out", type=_FILE, help="Write the platform's public key, PEM.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--list-lies", is_flag=True, is_eager=True, expose_value=False, callback=_list_lies, help="List the lies and exit.")
def command(**options: Any) -> int:
    """Build a realm from image files and print its measurements and layout.

    The RIM is computed by a model of the RMM with real translation tables, on another code path than the broker's replay.
    Keys are generated; whoever has the platform's file can forge evidence of that platform.
    """
    challenge = options["challenge"]
    if challenge is not None and len(challenge) != _CHALLENGE_SIZE:
        raise click.UsageError(f"--challenge takes {_CHALLENGE_SIZE} bytes, not {len(challenge)}")
    if challenge is None and (options["token_out"] or options["evidence_out"]):
        raise click.UsageError("a token answers a challenge: give --challenge")
    realm = _realm(options)
    _write_files(realm, options)
    document = _describe(realm)
    if options["as_json"]:
        click.echo(json.dumps(document, indent=2))
    else:
        _print(document)
    return EXIT_OK


def realm_from_arguments(arguments: Sequence[str]) -> "SimulatedRealm":
    """Build the realm that ``kbs-rim simulate ARGUMENTS`` describes; raise ``UsageError`` if they ask for output as well."""
    with command.make_context("simulate", list(arguments)) as context:
        if any(context.params[name] for name in _OUTPUTS):
            raise click.UsageError("a simulated guest takes no --challenge, --json or output options of kbs-rim simulate")
        return _realm(context.params)


def _realm(options: dict[str, Any]) -> "SimulatedRealm":
    from kbs_rim.realm.simulator import SimulatedRealm

    return SimulatedRealm(_simulation(options))


def _simulation(options: dict[str, Any]) -> "Simulation":
    from kbs_rim.realm.host_script import HostHabits
    from kbs_rim.realm.kvm_host import BuildOrder
    from kbs_rim.realm.rim_model import RmmGeneration
    from kbs_rim.realm.simulator import Simulation, TokenStyle, TreeDelivery
    from kbs_rim.realm.token_factory import MecSpelling, OuterForm, TokenProfile
    from kbs_rim.realm.vm_builder import LOG_STYLES, build_script

    style = options["log_style"] or options["vmm"]
    if style not in LOG_STYLES:
        raise click.UsageError(f"--log-style is one of {', '.join(LOG_STYLES)}")
    order, page_size = BuildOrder(options["order"]), _PAGES[options["rounding"]]
    return Simulation(
        script=build_script(_definition(options), _files(options)),
        log_style=LOG_STYLES[style],
        identity=_identity(options),
        generation=RmmGeneration(options["rmm"]),
        habits=HostHabits(page_size=page_size, order=order, log_before_recs=options["log_before_rec"]),
        tokens=TokenStyle(
            form=OuterForm(int(options["form"])),
            profile=TokenProfile(options["profile"]),
            mec=MecSpelling(options["mec"]) if options["mec"] else None,
        ),
        lie=options["lie"],
        send_tree=TreeDelivery(options["send_dtb"]),
        extends=options["extends"],
    )


def _definition(options: dict[str, Any]) -> "VmDefinition":
    from kbs_rim.evidence.hash_algorithm import HashAlgorithm
    from kbs_rim.measurement.vmm import HostParameters
    from kbs_rim.realm.vm_builder import VmDefinition

    host = HostParameters(
        hash_algorithm=HashAlgorithm.from_name(options["hash_"]),
        num_bps=options["breakpoints"],
        num_wps=options["watchpoints"],
        pmu_num_ctrs=options["pmu_counters"],
        sve_vl=options["sve_bits"],
    )
    return VmDefinition(
        vmm=options["vmm"],
        boot=options["boot"],
        cpus=options["cpus"],
        memory=options["memory"],
        append=options["append"],
        host=host,
        pmu=options["pmu"],
        its=not options["no_its"],
        measurement_log=not options["no_log"],
        rpv=options["rpv"],
        memory_private=options["private_memory"],
    )


def _files(options: dict[str, Any]) -> "VmFiles":
    from kbs_rim.realm.vm_builder import VmFiles

    if options[options["boot"]] is None:
        raise click.UsageError(f"--boot {options['boot']} needs --{options['boot']} FILE")
    kernel, initrd, firmware, dtb = (
        options[name].read_bytes() if options[name] else None for name in ("kernel", "initrd", "firmware", "dtb")
    )
    return VmFiles(kernel=kernel, initrd=initrd, firmware=firmware, device_tree=dtb)


def _identity(options: dict[str, Any]) -> "PlatformIdentity":
    from kbs_rim.realm.platform_identity import PlatformIdentity

    path: Path | None = options["platform"]
    if path is None:
        return PlatformIdentity.generate(options["curve"])
    if options["new_platform"] and not path.exists():
        identity = PlatformIdentity.generate(options["curve"])
        identity.save(path)
        return identity
    return PlatformIdentity.load(path)


def _write_files(realm: "SimulatedRealm", options: dict[str, Any]) -> None:
    from kbs_rim.evidence.envelope import encode_evidence_json

    identity, path = realm.simulation.identity, options["endorsements_out"]
    if path is not None:
        corim = path.suffix != ".json"
        path.write_bytes(identity.corim() if corim else json.dumps(identity.comid_json(), indent=2).encode() + b"\n")
    if options["cpak_out"]:
        options["cpak_out"].write_text(identity.public_pem() + "\n")
    if options["dtb_out"]:
        options["dtb_out"].write_bytes(realm.built.load("DTB").data)
    if options["log_out"]:
        options["log_out"].write_bytes(realm.log)
    if options["token_out"] or options["evidence_out"]:
        evidence = realm.evidence(options["challenge"])
        if options["token_out"]:
            options["token_out"].write_bytes(evidence.token)
        if options["evidence_out"]:
            options["evidence_out"].write_bytes(encode_evidence_json(evidence))


def _describe(realm: "SimulatedRealm") -> dict[str, Any]:
    import hashlib

    from kbs_rim.realm.lies import LIES

    simulation, built = realm.simulation, realm.built
    params, first = built.params, built.recs[0]
    habits, area = simulation.habits, built.log_area
    identity, lie = simulation.identity, simulation.lie
    return {
        "rim": realm.rim.hex(),
        "rems": [rem.hex() for rem in realm.rems],
        "hash_algorithm": params.hash.value,
        "dialect": f"rmm-{simulation.generation.value}/{habits.page_size // 1024}k/{habits.order.value}",
        "parameters": {name: getattr(params, name) for name in ("flags", "s2sz", "sve_vl", "num_bps", "num_wps", "pmu_num_ctrs")},
        "ram": {"base": hex(built.ram[0]), "size": built.ram[1]},
        "images": [
            {
                "description": load.name,
                "base": hex(load.base),
                "size": len(load.data),
                "image": f"sha256:{hashlib.sha256(load.data).hexdigest()}",
                "measured": load.measured,
            }
            for load in sorted(built.loads, key=lambda load: load.base)
        ],
        "log_area": None if area is None else {"base": hex(area.base), "size": area.size},
        "vcpus": {"count": len(built.recs), "runnable": sum(rec.flags & 1 for rec in built.recs)},
        "pc": hex(first.pc),
        "x0": hex(first.gprs[0]),
        "platform": {"implementation_id": identity.implementation_id.hex(), "instance_id": identity.instance_id.hex()},
        "lie": None if lie is None else {"name": lie.value, "about": LIES[lie].about, "expected": sorted(LIES[lie].findings)},
    }


def _print(document: dict[str, Any]) -> None:
    click.echo(f"RIM:  {document['rim']}")
    for number, rem in enumerate(document["rems"]):
        click.echo(f"REM{number}: {rem}")
    click.echo(f"dialect {document['dialect']}, {document['hash_algorithm']}")
    ram, vcpus = document["ram"], document["vcpus"]
    click.echo(f"RAM {ram['base']} + {ram['size']:#x}, {vcpus['count']} vCPU(s), {vcpus['runnable']} runnable")
    for image in document["images"]:
        note = "" if image["measured"] else "  not measured"
        click.echo(f"{image['description']:9} {image['base']:>12} + {image['size']:#x}  {image['image']}{note}")
    if area := document["log_area"]:
        click.echo(f"{'LOG':9} {area['base']:>12} + {area['size']:#x}  not measured")
    click.echo(f"pc {document['pc']}, x0 {document['x0']}")
    if lie := document["lie"]:
        click.echo(f"LIE {lie['name']}: {lie['about']} Expected: {', '.join(lie['expected'])}")
