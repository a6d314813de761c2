"""``kbs-rim simulate``: build a realm from image files on a model of the RMM, and let it answer a challenge."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kbs_rim.cli import EXIT_OK
from kbs_rim.cli.simulate_parameters import Extend, HexBytes, LieName, MemorySize, list_lies

if TYPE_CHECKING:
    from kbs_rim.realm.firmware_boot import Disk
    from kbs_rim.realm.lies import Lie
    from kbs_rim.realm.platform_identity import PlatformIdentity
    from kbs_rim.realm.simulator import SimulatedRealm, Simulation
    from kbs_rim.realm.vm_builder import VmDefinition, VmFiles

_FILE = click.Path(path_type=Path, dir_okay=False)
_PAGES = {"4k": 4096, "16k": 16384, "64k": 65536}
_CHALLENGE_SIZE = 64
_OUTPUTS = (
    "challenge",
    "token_out",
    "log_out",
    "dtb_out",
    "evidence_out",
    "endorsements_out",
    "cpak_out",
    "cc_log_out",
    "ccel_table_out",
    "as_json",
)


_Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
_VM_OPTIONS: tuple[_Decorator, ...] = (
    click.option("--vmm", type=click.Choice(["qemu", "kvmtool"]), required=True, help="Whose layout the VM has."),
    click.option("--boot", type=click.Choice(["kernel", "firmware"]), default="kernel", show_default=True, help="What starts first."),
    click.option("--kernel", type=_FILE, help="arm64 Linux Image, or gzip of one."),
    click.option("--initrd", type=_FILE),
    click.option("--firmware", type=_FILE),
    click.option("--dtb", type=_FILE, help="Device tree [default: generated as the VMM does]."),
    click.option("--cpus", type=click.IntRange(1, 512), default=1, show_default=True),
    click.option("--memory", type=MemorySize(), default="512M", show_default=True, help="RAM; MiB without K, M or G."),
    click.option("--append", help="Kernel command line."),
    click.option("--rpv", type=HexBytes(), default="", help="Realm personalization value, up to 64 bytes."),
    click.option("--pmu", is_flag=True, help="Give the realm a PMU."),
    click.option("--no-its", is_flag=True, help="No interrupt translation service."),
    click.option("--no-log", is_flag=True, help="Reserve no log area (the log is written all the same)."),
    click.option("--without-log", is_flag=True, help="The VMM knows no log: no area for one, and none is sent."),
    click.option("--breakpoints", "--num-bps", "breakpoints", type=click.IntRange(2, 64), default=2, show_default=True),
    click.option("--watchpoints", "--num-wps", "watchpoints", type=click.IntRange(2, 64), default=2, show_default=True),
    click.option("--pmu-counters", "--pmu-num-ctrs", "pmu_counters", type=click.IntRange(0, 31), default=0, show_default=True),
    click.option(
        "--sve-bits", "--sve-vl", "sve_bits", type=click.IntRange(0, 2048), default=0, show_default=True, help="Vector length; 0 is no SVE."
    ),
    click.option("--lpa2", is_flag=True, help="The host has LPA2, which its kernel then gives to every realm (fvp)."),
    click.option("--private-memory", is_flag=True, help="An encryption key of its own (RMM 2.0)."),
)
_DISK_OPTIONS: tuple[_Decorator, ...] = (
    click.option("--disk-kernel", type=_FILE, help="What the firmware finds on the disk and measures: a kernel that is an EFI program."),
    click.option("--disk-initrd", type=_FILE, help="The initrd beside it."),
    click.option("--disk-append", default="", help="The kernel's command line on the disk."),
    click.option("--disk-grub", type=_FILE, help="GRUB in front of the kernel."),
    click.option("--disk-uki", type=_FILE, help="A unified kernel image instead."),
    click.option("--secure-boot", type=_FILE, metavar="CERTIFICATE", help="Secure Boot is on, with this certificate (DER) in db."),
)
_REALM_OPTIONS: tuple[_Decorator, ...] = (
    click.option("--rmm", type=click.Choice(["1.0", "2.0"]), default="1.0", show_default=True),
    click.option("--hash", "hash_", type=click.Choice(["sha256", "sha384", "sha512"]), default="sha256", show_default=True),
    click.option("--order", type=click.Choice(["log", "ripas-last"]), default="log", show_default=True, help="When RIPAS is set."),
    click.option("--rounding", type=click.Choice(list(_PAGES)), default="4k", show_default=True, help="Page size of the host."),
    click.option("--log-style", help="qemu, qemu-documented, kvmtool or kvmtool-old [default: the VMM's]."),
    click.option("--log-before-rec", is_flag=True, help="Populate the log before the vCPUs, as older kvmtool does."),
    click.option("--extend", "extends", type=Extend(), multiple=True, help="The running realm extends a REM; repeatable."),
    click.option("--platform", type=_FILE, help="The simulated platform's file [default: one that is thrown away]."),
    click.option("--new-platform", is_flag=True, help="Make the platform's file if it is missing."),
    click.option("--curve", type=click.Choice(["P-256", "P-384"]), default="P-384", show_default=True, help="Of a new platform's key."),
    click.option("--form", type=click.Choice(["399", "907"]), default="907", show_default=True, help="Outer CBOR tag of tokens."),
    click.option("--profile", type=click.Choice(["legacy", "2023-2023", "2023-2024", "2024-2024"]), default="2023-2023", show_default=True),
    click.option("--mec", type=click.Choice(["none", "text", "integer"]), help="Spelling of claim 44243 [default: the profile's]."),
    click.option(
        "--send-dtb", type=click.Choice(["none", "envelope", "log"]), default="none", show_default=True, help="Send the device tree."
    ),
    click.option("--lie", type=LieName(), help="Tell a lie, see --list-lies."),
)


def _with_options(*groups: Sequence[_Decorator]) -> _Decorator:
    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed([option for group in groups for option in group]):
            function = option(function)
        return function

    return decorate


@click.command("simulate")
@_with_options(_VM_OPTIONS, _DISK_OPTIONS, _REALM_OPTIONS)
@click.option("--challenge", type=HexBytes(), help="64 bytes that the token answers.")
@click.option("--token-out", type=_FILE, help="Write the CCA token.")
@click.option("--log-out", type=_FILE, help="Write the VMM's log.")
@click.option("--cc-log-out", type=_FILE, help="Write the firmware's log area (CCEL).")
@click.option("--ccel-table-out", type=_FILE, help="Write the ACPI table that points to it.")
@click.option("--dtb-out", type=_FILE, help="Write the device tree as loaded.")
@click.option("--evidence-out", type=_FILE, help="Write token and log in the JSON envelope.")
@click.option(
    "--endorsements-out", type=_FILE, help="Write trust anchor and reference values: CoMID if the name ends in .json, else CoRIM."
)
@click.option("--cpak-out", type=_FILE, help="Write the platform's public key, PEM.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--list-lies", is_flag=True, is_eager=True, expose_value=False, callback=list_lies, help="List the lies and exit.")
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
    if options["without_log"] and options["log_out"]:
        raise click.UsageError("there is no log to write --without-log")
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
    from kbs_rim.realm.cc_log_lies import BootLie
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
    lie: Lie | BootLie | None = options["lie"]
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
        lie=None if isinstance(lie, BootLie) else lie,
        disk=_disk(options),
        boot_lie=lie if isinstance(lie, BootLie) else None,
        send_tree=TreeDelivery(options["send_dtb"]),
        send_log=not options["without_log"],
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
        lpa2=options["lpa2"],
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
        measurement_log=not (options["no_log"] or options["without_log"]),
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


def _disk(options: dict[str, Any]) -> "Disk | None":
    from kbs_rim.realm.firmware_boot import Disk

    files = {name: options[f"disk_{name}"] for name in ("kernel", "initrd", "grub", "uki")}
    if not any(files.values()):
        if options["disk_append"] or options["secure_boot"]:
            raise click.UsageError("--disk-append and --secure-boot need --disk-kernel or --disk-uki")
        return None
    read = {name: path.read_bytes() if path else None for name, path in files.items()}
    certificate = options["secure_boot"].read_bytes() if options["secure_boot"] else None
    return Disk(**read, append=options["disk_append"], secure_boot=certificate)


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
    if options["cc_log_out"] or options["ccel_table_out"]:
        _write_firmware_log(realm, options)
    if options["token_out"] or options["evidence_out"]:
        evidence = realm.evidence(options["challenge"])
        if options["token_out"]:
            options["token_out"].write_bytes(evidence.token)
        if options["evidence_out"]:
            options["evidence_out"].write_bytes(encode_evidence_json(evidence))


def _write_firmware_log(realm: "SimulatedRealm", options: dict[str, Any]) -> None:
    from kbs_rim.realm.cc_log import ccel_table

    if realm.cc_log is None:
        raise click.UsageError("only a firmware boot with --disk-kernel or --disk-uki has a log of the firmware")
    if options["cc_log_out"]:
        options["cc_log_out"].write_bytes(realm.cc_log)
    if options["ccel_table_out"]:
        options["ccel_table_out"].write_bytes(ccel_table())


def _describe(realm: "SimulatedRealm") -> dict[str, Any]:
    import hashlib

    simulation, built = realm.simulation, realm.built
    params, first = built.params, built.recs[0]
    habits, area = simulation.habits, built.log_area
    identity = simulation.identity
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
        "lie": _lie_told(simulation),
    }


def _lie_told(simulation: "Simulation") -> dict[str, Any] | None:
    from kbs_rim.realm.cc_log_lies import BOOT_LIES
    from kbs_rim.realm.lies import LIES

    if simulation.boot_lie is not None:
        name, told, findings = simulation.boot_lie.value, BOOT_LIES[simulation.boot_lie].about, BOOT_LIES[simulation.boot_lie].findings
    elif simulation.lie is not None:
        name, told, findings = simulation.lie.value, LIES[simulation.lie].about, LIES[simulation.lie].findings
    else:
        return None
    return {"name": name, "about": told, "expected": sorted(findings)}


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
