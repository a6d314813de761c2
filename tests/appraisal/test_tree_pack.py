"""Rule packs as documents: what is no pack is refused with the key that is wrong; the shipped ones say who they are."""

import copy
import tomllib
from pathlib import Path

import pytest

from kbs_rim.appraisal.tree_pack import parse_rule_pack
from kbs_rim.appraisal.tree_value_rules import Numbers
from kbs_rim.errors import ConfigurationError, InvalidDocument
from kbs_rim.rule_packs import load_rule_packs, read_rule_pack, shipped_directory

ROOT = Path(__file__).parent.parent.parent
PACK = {
    "name": "tiny",
    "version": 1,
    "nodes": [
        {"path": "/", "must": {"model": {"string": ["x"]}}},
        {"path": "/uart@<hex>", "label": "uart", "most": 2, "must": {"reg": {"regions": [{"base": "0x0..0x10", "size": 16}]}}},
        {"path": "/chosen", "may": {"stdout-path": {"path_of": "uart"}}},
    ],
}


def pack_with(change):
    document = copy.deepcopy(PACK)
    change(document)
    return document


def test_a_small_pack():
    pack = parse_rule_pack(PACK)
    assert (pack.name, pack.version) == ("tiny", 1)
    assert pack.root.child("uart@1f").most == 2
    assert pack.root.child("uart@01") is None
    assert pack.root.child("uart") is None
    assert pack.root.child("chosen").may.keys() == {"stdout-path"}
    assert pack.digest == parse_rule_pack(copy.deepcopy(PACK)).digest
    assert pack.digest != parse_rule_pack(pack_with(lambda document: document.update(version=2))).digest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(nmae="x"), "nmae: this key is not known; did you mean name?"),
        (lambda d: d.update(name="Big"), "name: "),
        (lambda d: d.update(version=0), "version: "),
        (lambda d: d.pop("nodes"), "nodes: this key is missing"),
        (lambda d: d["nodes"].pop(0), "no rule for the root|no rule for the node above"),
        (lambda d: d["nodes"].append({"path": "/chosen"}), "two rules are for /chosen"),
        (lambda d: d["nodes"].append({"path": "/a/b"}), "/a/b has no rule for the node above it"),
        (lambda d: d["nodes"].append({"path": "a"}), "is not the path of a node"),
        (lambda d: d["nodes"].append({"path": "/a/"}), "is not the path of a node"),
        (lambda d: d["nodes"].append({"path": "/a<oct>"}), "is not the path of a node"),
        (lambda d: d["nodes"].append({"path": "/a", "most": 2}), "at most one /a"),
        (lambda d: d["nodes"].append({"path": "/a<dec>", "least": 3, "most": 2}), "least is larger"),
        (lambda d: d["nodes"][0].update(may={"model": {"empty": True}}), "model stands in must and in may"),
        (lambda d: d["nodes"][0]["must"].update(x={"empty": False}), "x.empty: false is not one of True"),
        (lambda d: d["nodes"][0]["must"].update(x={"string": ["a"], "cells": [1]}), "cells: this key is not known"),
        (lambda d: d["nodes"][0]["must"].update(x={"strnig": ["a"]}), "must.x: no key says what kind of value this is"),
        (lambda d: d["nodes"][0]["must"].update(x={"string": []}), "at least 1 entry"),
        (lambda d: d["nodes"][0]["must"].update(x={"cells": ["&nobody"]}), "names the label nobody, which no node has"),
        (lambda d: d["nodes"][2]["may"].update(x={"path_of": "nobody"}), "names the label nobody"),
        (lambda d: d["nodes"][0]["must"].update(x={"cells": [1 << 32]}), "the range is empty or too large"),
        (lambda d: d["nodes"][0]["must"].update(x={"cells": ["9..3"]}), "the range is empty or too large"),
        (lambda d: d["nodes"][0]["must"].update(x={"cells": ["0x"]}), "write a number or a range"),
        (lambda d: d["nodes"][0]["must"].update(x={"cells": [True]}), "write a number or a range"),
        (lambda d: d["nodes"][0]["must"].update(x={"regions": [{"base": 0}]}), "either size or per_cpu"),
        (lambda d: d["nodes"][0]["must"].update(x={"regions": [{"base": 0, "end": 4, "size": 1}]}), "either base or end"),
        (
            lambda d: d["nodes"][0]["must"].update(x={"regions": [{"base": 0, "size": 1, "optional": True}, {"base": 9, "size": 1}]}),
            "optional regions come last",
        ),
    ],
)
def test_what_is_no_pack_is_refused_by_name(change, message):
    with pytest.raises(InvalidDocument, match=message) as refused:
        parse_rule_pack(pack_with(change))
    assert refused.value.finding_id == "document.tree-rules"


@pytest.mark.parametrize("document", [None, [], "pack", 7, {}])
def test_something_else_is_no_pack(document):
    with pytest.raises(InvalidDocument):
        parse_rule_pack(document)


def test_numbers_are_shown_as_they_are_written():
    assert [str(Numbers(*item)) for item in ((1, 1), (16, 47), (0, 0xFFFFFFFF), (0, 1, "gic"))] == ["0x1", "0x10..0x2f", "*", "&gic"]


# Files -------------------------------------------------------------------------------------------------------------------


def test_three_packs_ship():
    packs = load_rule_packs()
    assert set(packs) == {"qemu-virt", "kvmtool", "cloud-hypervisor"}
    assert all(len(pack.digest) == 64 and pack.version >= 1 and pack.description for pack in packs.values())
    assert shipped_directory() == ROOT / "config" / "tree_rules"


def test_packs_of_ones_own_stand_beside_the_shipped_ones(tmp_path):
    text = (shipped_directory() / "kvmtool.toml").read_text()
    (tmp_path / "ours.toml").write_text(text.replace('name = "kvmtool"', 'name = "ours"'))
    assert "ours" in load_rule_packs(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("bad.toml", "name = ", "bad.toml is not TOML"),
        ("bad.toml", 'name = "x"', "bad.toml: the rule pack is not valid"),
        ("deep.toml", "x = " + "[" * 5000, "is not TOML"),
        ("big.toml", "# " + "x" * (1 << 20), "larger than a rule pack"),
    ],
)
def test_a_bad_file_is_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        load_rule_packs(tmp_path)


def test_a_shipped_pack_cannot_be_replaced(tmp_path):
    (tmp_path / "mine.toml").write_text((shipped_directory() / "kvmtool.toml").read_text())
    with pytest.raises(ConfigurationError, match="there is a rule pack kvmtool already"):
        load_rule_packs(tmp_path)


def test_a_directory_that_is_not_there(tmp_path):
    with pytest.raises(ConfigurationError, match="is not a directory"):
        load_rule_packs(tmp_path / "none")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_rule_pack(tmp_path / "none.toml")
    with pytest.raises(ConfigurationError, match="missing from this installation"):
        shipped_directory(tmp_path / "kbs_rim")


def test_every_shipped_pack_is_toml_without_surprises():
    for file in sorted(shipped_directory().glob("*.toml")):
        document = tomllib.loads(file.read_text())
        assert document["name"] == file.stem
        assert all(ord(character) < 128 for character in file.read_text())
