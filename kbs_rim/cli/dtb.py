"""``kbs-rim dtb``: make and compare device trees, show them, and judge them as a broker would."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kbs_rim.cli import EXIT_OK, EXIT_REFUSED, dtb_diff, dtb_make

if TYPE_CHECKING:
    from kbs_rim.appraisal.findings import Finding
    from kbs_rim.appraisal.tree_rules import RulePack, Surroundings, TreeOptions
    from kbs_rim.measurement.device_tree import DeviceTree, DeviceTreeFacts, Node

_FILE = click.Path(path_type=Path, allow_dash=True, dir_okay=False)
_NUMBER = re.compile(r"0[xX][0-9A-Fa-f]{1,16}|[0-9]{1,20}")
Pair = tuple[int, int]


class _Pair(click.ParamType[Pair]):
    """``A,B``: two numbers, decimal or with 0x."""

    name = "base,size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Pair:
        parts = str(value).split(",")
        if len(parts) != 2 or not all(_NUMBER.fullmatch(part) for part in parts):
            self.fail(f"{value!r} is not two numbers such as 0x40000000,0x20000000", param, ctx)
        first, second = (int(part, 16 if part[:2].lower() == "0x" else 10) for part in parts)
        if not second or first + second > 1 << 64:
            self.fail(f"{value!r} is empty or beyond 64 bits", param, ctx)
        return first, second


@click.group("dtb")
def command() -> None:
    """Make, show and compare device trees, and judge them by rules."""


command.add_command(dtb_diff.command)
command.add_command(dtb_make.command)


@command.command()
@click.argument("file", type=_FILE)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(file: Path, as_json: bool) -> int:
    """Print the device tree FILE (- reads stdin) as source that dtc reads. Exit 1 if it is malformed.

    Whatever the tree holds, only plain ASCII is printed.
    """
    from kbs_rim.measurement.device_tree import parse_device_tree
    from kbs_rim.measurement.device_tree_text import tree_source

    data = _read(file)
    tree = parse_device_tree(data)
    if as_json:
        click.echo(json.dumps(_document(tree, len(data)), indent=2))
    else:
        for line in tree_source(tree):
            click.echo(line)
    return EXIT_OK


@command.command()
@click.argument("file", type=_FILE)
@click.option("--rules", required=True, metavar="PACK", help="A shipped pack (qemu-virt, kvmtool, cloud-hypervisor) or a TOML file.")
@click.option("--memory", type=_Pair(), multiple=True, help="The realm's RAM; repeat for several ranges [default: not compared].")
@click.option("--initrd", type=_Pair(), metavar="START,SIZE", help="Where the initrd was loaded [default: not compared].")
@click.option("--no-initrd", is_flag=True, help="No initrd was loaded.")
@click.option("--log-area", type=_Pair(), help="Where the measurement log is [default: not compared].")
@click.option("--no-log-area", is_flag=True, help="There is no measurement log in memory.")
@click.option("--bootargs", metavar="TEXT", help="The command line, exactly [default: not judged].")
@click.option("--cpus", type=click.IntRange(1, 512), help="How many CPUs [default: any number].")
@click.option("--allow-seeds", is_flag=True, help="Accept seeds that the host chose.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(file: Path, **options: Any) -> int:
    """Judge the device tree FILE (- reads stdin) by a rule pack, as a broker does. Exit 0 if it is good, 1 if not.

    What is not given is not compared; a broker knows all of it from the log and from the workload.
    """
    from kbs_rim.appraisal.findings import Finding
    from kbs_rim.appraisal.tree_rules import judge_tree
    from kbs_rim.errors import MalformedEvidence
    from kbs_rim.measurement.device_tree import parse_device_tree

    for name in ("initrd", "log_area"):
        if options[name] and options[f"no_{name}"]:
            raise click.UsageError(f"--{name.replace('_', '-')} and --no-{name.replace('_', '-')} contradict each other")
    pack = _pack(options["rules"])
    data = _read(file)
    try:
        findings = judge_tree(parse_device_tree(data), pack, _tree_options(options), _surroundings(options))
    except MalformedEvidence as error:
        findings = (Finding.from_error(error),)
    if options["as_json"]:
        document = {"file": str(file), "rules": {"name": pack.name, "version": pack.version, "digest": pack.digest}, "good": not findings}
        click.echo(json.dumps({**document, "findings": [finding.to_document() for finding in findings]}, indent=2))
    else:
        _print_findings(findings, pack)
    return EXIT_REFUSED if findings else EXIT_OK


def _read(file: Path) -> bytes:
    from kbs_rim.limits import DEFAULT_LIMITS

    with click.open_file(str(file), "rb") as stream:
        data: bytes = stream.read(DEFAULT_LIMITS.device_tree_bytes + 1)
    return data


def _pack(name: str) -> "RulePack":
    from kbs_rim.rule_packs import load_rule_packs, read_rule_pack

    if name.endswith(".toml") or "/" in name:
        return read_rule_pack(Path(name))
    packs = load_rule_packs()
    if name not in packs:
        raise click.UsageError(f"--rules is one of {', '.join(sorted(packs))}, or a TOML file")
    return packs[name]


def _tree_options(options: dict[str, Any]) -> "TreeOptions":
    from kbs_rim.appraisal.bootargs import BootargsRules
    from kbs_rim.appraisal.tree_rules import TreeOptions
    from kbs_rim.appraisal.workload import Bounds

    text, cpus = options["bootargs"], options["cpus"]
    return TreeOptions(
        bootargs=None if text is None else BootargsRules.model_construct(exact=(text,)),
        cpus=None if cpus is None else Bounds(min=cpus, max=cpus),
        allow_seeds=options["allow_seeds"],
    )


def _surroundings(options: dict[str, Any]) -> "Surroundings":
    from kbs_rim.appraisal.address_range import Range, joined
    from kbs_rim.appraisal.tree_rules import Surroundings

    def known(name: str) -> tuple[Range, ...] | None:
        pair: Pair | None = options[name]
        return (Range.sized(*pair),) if pair else () if options[f"no_{name}"] else None

    return Surroundings(memory=joined(options["memory"]) if options["memory"] else None, initrd=known("initrd"), log_area=known("log_area"))


def _print_findings(findings: "Iterable[Finding]", pack: "RulePack") -> None:
    findings = tuple(findings)
    for finding in findings:
        details = "".join(f"\n  {label}: {text}" for label, text in (("expected", finding.expected), ("seen", finding.seen)) if text)
        click.echo(f"{finding.id}: {finding.message}{details}")
    verdict = "does not keep" if findings else "keeps"
    click.echo(f"kbs-rim: the tree {verdict} the rules of {pack.name}, version {pack.version}", err=True)


def _document(tree: "DeviceTree", size: int) -> dict[str, Any]:
    from kbs_rim.errors import MalformedEvidence
    from kbs_rim.measurement.device_tree import facts_of

    try:
        facts: dict[str, Any] | None = _facts(facts_of(tree, size))
    except MalformedEvidence:
        facts = None
    return {
        "size": size,
        "total_size": tree.total_size,
        "boot_cpu": tree.boot_cpu,
        "reservations": [_range(item) for item in tree.reservations],
        "facts": facts,
        "root": _node(tree.root),
    }


def _facts(facts: "DeviceTreeFacts") -> dict[str, Any]:
    return {
        "memory": [_range(item) for item in facts.memory],
        "initrd": None if facts.initrd is None else {"start": hex(facts.initrd[0]), "end": hex(facts.initrd[1])},
        "bootargs": facts.bootargs,
        "log_area": None if facts.log_area is None else _range(facts.log_area),
        "reserved": [_range(item) for item in facts.reserved],
        "cpus": facts.cpus,
    }


def _range(item: Pair) -> dict[str, str]:
    return {"base": hex(item[0]), "size": hex(item[1])}


def _node(node: "Node") -> dict[str, Any]:
    """One node with what is below it; the reader has bounded the depth."""
    from kbs_rim.measurement.device_tree_text import value_text

    properties = {name: {"hex": value.hex(), "text": value_text(value) if value else ""} for name, value in node.properties.items()}
    return {"name": node.name, "properties": properties, "children": [_node(child) for child in node.children]}
