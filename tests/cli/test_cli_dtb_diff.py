"""``kbs-rim dtb diff``: readable, complete as JSON, and with the exit codes of ``log diff``."""

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from kbs_rim.cli.dtb import command
from kbs_rim.measurement.device_tree import Node
from kbs_rim.measurement.device_tree_writer import cells, write_device_tree

VECTORS = Path(__file__).parent.parent / "vectors"
DUMPS = VECTORS / "images" / "qemu-dtb"


def dump(name: str, folder: Path) -> Path:
    """A dumped tree at its full size."""
    path = folder / name
    path.write_bytes((DUMPS / name).read_bytes().ljust(1 << 20, b"\0"))
    return path


def run(*arguments: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(command, ["diff", *map(str, arguments)], input=stdin, standalone_mode=False)


def test_the_same(tmp_path):
    tree = dump("qemu-10.0-smp2.dtb", tmp_path)
    result = run(tree, tree)
    assert (result.stdout, result.return_value) == ("the same\n", 0)
    assert json.loads(run(tree, "-", "--json", stdin=tree.read_bytes()).stdout) == {"same": True, "counts": {}, "differences": []}


def test_two_versions_of_qemu(tmp_path):
    before, after = dump("qemu-7.2-smp2.dtb", tmp_path), dump("qemu-10.0-smp2.dtb", tmp_path)
    result = run(before, after)
    assert result.return_value == 1
    assert result.stdout.splitlines() == [
        "+ / dma-coherent",
        "+ node /aliases",
        '+     serial0: "/pl011@9000000"',
        "not listed: 1 strings block, 2 paddings (--all)",
    ]
    listed = run(before, after, "--all").stdout
    assert "~ padding /pl011@9000000 clock-names: " in listed
    assert "~ strings strings block: " in listed


def test_renumbered_phandles_are_counted_and_told_in_json(tmp_path):
    before, after = dump("qemu-10.0-smp1-seeds.dtb", tmp_path), dump("qemu-10.0-smp2.dtb", tmp_path)
    lines = run(before, after).stdout
    assert "- /chosen rng-seed: " in lines
    assert "+ node /cpus/cpu@1" in lines
    assert "10 properties with other phandle numbers" in lines
    assert "interrupt-parent" not in lines
    assert "~ / interrupt-parent: <&/intc@8000000=0x8002> -> <&/intc@8000000=0x8003> (the same node)" in run(before, after, "--all").stdout
    document = json.loads(run(before, after, "--json").stdout)
    (parent,) = [one for one in document["differences"] if (one["path"], one["name"]) == ("/", "interrupt-parent")]
    assert parent["renumbered"] is True
    assert parent["before"] == {"text": "<&/intc@8000000=0x8002>", "hex": "00008002"}
    assert document["counts"]["renumbered"] == 10


def test_long_values_are_cut_on_a_terminal_only(tmp_path):
    paths = []
    for number in (1, 2):
        paths.append(tmp_path / f"{number}.dtb")
        paths[-1].write_bytes(write_device_tree(Node("", {"long": cells(*([number] * 100))})))
    (line,) = run(*paths).stdout.splitlines()
    assert line.count("... (401 characters)") == 2
    assert len(json.loads(run(*paths, "--json").stdout)["differences"][0]["before"]["hex"]) == 800


def test_attack_terminal_escapes_in_values(tmp_path):
    tree = tmp_path / "t.dtb"
    tree.write_bytes(write_device_tree(Node("", {"model": b"\x1b[2J\x9b\0"}, (Node("chosen", {"bootargs": b"\x1b[31mred\0"}),))))
    for arguments in ([], ["--all"], ["--json"]):
        shown = run(tree, VECTORS / "vmm" / "dtb-public" / "X016-kvmtool.dtb", *arguments).output
        assert shown.isascii()
        assert all(character.isprintable() or character == "\n" for character in shown)


def test_what_is_no_tree_cannot_be_compared(tmp_path):
    tree = dump("qemu-10.0-smp2.dtb", tmp_path)
    result = run(tree, "-", stdin=b"nothing")
    assert isinstance(result.exception, click.ClickException)
    assert "-: tree.malformed" in str(result.exception)
    assert isinstance(run("-", "-", stdin=b"").exception, click.UsageError)


@pytest.mark.parametrize("version", ["7.2", "10.0", "11.1"])
def test_the_three_versions_keep_the_rules_of_qemu_virt(version, tmp_path):
    for arguments in (
        ["-smp", "1"],
        ["-smp", "8,sockets=2,clusters=1,cores=2,threads=2"],
        ["-smp", "300"],
        ["-bios", "QEMU_EFI.fd"],
        ["-m", "512M,slots=2,maxmem=600G"],
        ["-M", "virt,iommu=smmuv3"],
        ["-M", "virt,its=off"],
        ["-M", "virt,acpi=off"],
        ["-serial", "null", "-serial", "null"],
        ["-cpu", "max,pmu=off"],
        ["-cpu", "a64fx"],
        ["-cpu", "cortex-a35"],
        ["-m", "1G", "-M", "virt,phandle-start=0x100"],
    ):
        out = tmp_path / "tree.dtb"
        words = ["make", "qemu", "--qemu-version", version, "-o", str(out), "--"]
        machine = ["-M", "virt,gic-version=3,dtb-randomness=off", "-cpu", "max", "-m", "512M"]
        made = CliRunner().invoke(command, [*words, *machine, *arguments], standalone_mode=False)
        assert made.exception is None, made.exception
        checked = CliRunner().invoke(command, ["check", str(out), "--rules", "qemu-virt"], standalone_mode=False)
        assert (checked.return_value, checked.stdout) == (0, ""), arguments
