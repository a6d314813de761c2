"""``kbs-rim dtb``: what is shown is safe to show, and check says what a broker would."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kbs_rim.cli.dtb import command
from kbs_rim.measurement.device_tree import Node, parse_device_tree
from kbs_rim.measurement.device_tree_writer import cells64, text, write_device_tree

VECTORS = Path(__file__).parent.parent / "vectors" / "vmm" / "dtb-public"
KVMTOOL = VECTORS / "X016-kvmtool.dtb"
QEMU = VECTORS / "X039-qemu.dtb"
RULES = Path(__file__).parent.parent.parent / "config" / "tree_rules"


def run(*arguments: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments], input=stdin, standalone_mode=False)


def check(*arguments: object, stdin: bytes | None = None) -> tuple[int, dict]:
    result = run("check", *arguments, "--json", stdin=stdin)
    assert result.exception is None, result.output
    return result.return_value, json.loads(result.stdout)


def hostile() -> bytes:
    escapes = b"\x1b[2J\x1b]0;title\x07 \xe2\x80\xae\0"
    return write_device_tree(Node("", {"model": escapes, "long": b"\x9b" * 1001}, (Node("chosen", {"bootargs": b"\x1b[31mred\0"}),)))


def test_show_prints_source() -> None:
    result = run("show", QEMU)
    assert result.return_value == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "/dts-v1/;"
    assert '\t\tmethod = "smc";' in lines
    assert lines.count("};") == 1


def test_show_as_json_has_tree_and_facts() -> None:
    document = json.loads(run("show", KVMTOOL, "--json").stdout)
    assert document["facts"]["memory"] == [{"base": "0x80000000", "size": "0x8000000"}]
    assert document["facts"]["cpus"] == 16
    assert document["facts"]["log_area"] == {"base": "0x87ff0000", "size": "0x10000"}
    assert (document["size"], document["reservations"]) == (65536, [])
    names = [child["name"] for child in document["root"]["children"]]
    assert names[:3] == ["chosen", "memory@80000000", "cpus"]
    assert document["root"]["properties"]["compatible"] == {"hex": b"linux,dummy-virt\0".hex(), "text": '"linux,dummy-virt"'}


def test_attack_terminal_escapes_in_a_tree(tmp_path: Path) -> None:
    for arguments in (["show", "-"], ["show", "-", "--json"], ["check", "-", "--rules", "kvmtool"]):
        result = run(*arguments, stdin=hostile())
        assert result.exception is None
        shown = result.output
        assert shown.isascii()
        assert all(character.isprintable() or character in "\n\t" for character in shown)


def test_a_tree_of_which_no_facts_can_be_had_is_shown_all_the_same() -> None:
    twice = write_device_tree(Node("", {}, (Node("chosen"), Node("chosen@0"))))
    document = json.loads(run("show", "-", "--json", stdin=twice).stdout)
    assert document["facts"] is None


def test_check_passes_a_good_tree() -> None:
    code, document = check(KVMTOOL, "--rules", "kvmtool")
    assert (code, document["good"], document["findings"]) == (0, True, [])
    assert document["rules"]["name"] == "kvmtool"
    assert len(document["rules"]["digest"]) == 64
    assert run("check", KVMTOOL, "--rules", RULES / "kvmtool.toml").return_value == 0


def test_check_compares_what_is_given() -> None:
    good = ("--memory", "0x80000000,0x8000000", "--log-area", "0x87ff0000,65536", "--no-initrd", "--cpus", 16)
    good += ("--bootargs", " console=hvc0 root=/dev/vda rw  console=ttyS0")
    assert check(KVMTOOL, "--rules", "kvmtool", *good)[0] == 0
    bad = ("--memory", "0x80000000,0x1000", "--no-log-area", "--initrd", "0x80100000,1", "--cpus", 15, "--bootargs", "")
    code, document = check(KVMTOOL, "--rules", "kvmtool", *bad)
    assert code == 1
    assert {finding["id"] for finding in document["findings"]} == {
        "tree.memory",
        "tree.log-area",
        "tree.initrd",
        "tree.cpus",
        "tree.bootargs",
    }


def test_check_names_node_and_property() -> None:
    tree = parse_device_tree(QEMU.read_bytes())
    children = tuple(
        Node(node.name, {**node.properties, "kaslr-seed": cells64(1)}) if node.name == "chosen" else node for node in tree.root.children
    )
    data = write_device_tree(Node("", tree.root.properties, (*children, Node("evil", {"compatible": text("x")}))))
    code, document = check("-", "--rules", "qemu-virt", stdin=data)
    assert code == 1
    assert [finding["where"] for finding in document["findings"]] == [{"node": "/evil"}, {"node": "/chosen", "property": "kaslr-seed"}]
    assert check("-", "--rules", "qemu-virt", "--allow-seeds", stdin=data)[1]["findings"][0]["id"] == "tree.unknown-node"
    shown = run("check", "-", "--rules", "qemu-virt", stdin=data)
    assert "tree.seed: /chosen kaslr-seed: " in shown.stdout
    assert shown.return_value == 1


@pytest.mark.parametrize("data", [b"", b"\xd0\x0d\xfe\xed", b"no tree at all" * 20])
def test_what_is_no_tree_is_a_finding(data: bytes) -> None:
    code, document = check("-", "--rules", "qemu-virt", stdin=data)
    assert code == 1
    assert [finding["id"] for finding in document["findings"]] == ["tree.malformed"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rules", "bhyve"], "--rules is one of cloud-hypervisor, kvmtool, qemu-virt"),
        (["--rules", "kvmtool", "--initrd", "0,1", "--no-initrd"], "contradict"),
        (["--rules", "kvmtool", "--memory", "0x80000000"], "is not two numbers"),
        (["--rules", "kvmtool", "--memory", "1,0"], "is empty"),
        (["--rules", "kvmtool", "--memory", "0xffffffffffffffff,2"], "beyond 64 bits"),
        (["--rules", "kvmtool", "--cpus", "0"], "0 is not in the range"),
    ],
)
def test_wrong_use(arguments: list[str], message: str) -> None:
    result = run("check", KVMTOOL, *arguments)
    assert type(result.exception).__name__ in ("UsageError", "BadParameter")
    assert message in str(result.exception)
