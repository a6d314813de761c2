"""Workloads: what is refused is said briefly, whatever the document holds."""

import pytest

from kbs_rim.appraisal.workload import Workload, parse_workload, workload_document
from kbs_rim.errors import InvalidDocument

IMAGE = f"sha256:{'ab' * 32}"
LEAST = {
    "name": "web",
    "images": [{"role": "kernel", "images": [IMAGE]}, {"role": "device-tree", "images": [IMAGE]}],
    "memory": {"base": "0x40000000", "size": {"min": 0, "max": 4096}},
}


def refusal(document: object) -> str:
    with pytest.raises(InvalidDocument) as refused:
        parse_workload(document)
    assert refused.value.finding_id == "document.workload"
    return refused.value.message


def test_a_document_is_read_back():
    workload = parse_workload(LEAST)
    assert isinstance(workload, Workload)
    assert parse_workload(workload_document(workload)) == workload


def test_wrong_keys_are_named_with_their_place():
    message = refusal({**LEAST, "memory": {"base": 1, "size": {"min": 0, "max": 1}}, "realm": {"rpv": "zz"}, "colour": "red"})
    assert "memory" in message
    assert "not a multiple of 4096" in message
    assert "realm.rpv" in message
    assert "colour" in message


def test_a_thousand_wrong_keys_are_counted_not_listed():
    message = refusal({**LEAST, **{f"key{number}": 1 for number in range(1000)}})
    assert "key0" in message
    assert message.endswith("; and 980 more")
    assert len(message) < 2000


def test_long_keys_and_values_are_cut():
    message = refusal({**LEAST, "k" * 100_000: 1, "rmm": {"hash_algorithms": ["h" * 100_000]}})
    assert len(message) < 2000


def test_terminal_escapes_in_keys_are_shown_harmlessly():
    assert r"\x1b[2J" in refusal({**LEAST, "\x1b[2J": 1})


# Device trees ---------------------------------------------------------------------------------------------------------------

WITHOUT_TREE = {**LEAST, "images": LEAST["images"][:1]}


def test_what_was_stored_before_there_were_rules_still_means_registered_trees():
    workload = parse_workload(LEAST)
    assert (workload.device_tree.mode, workload.device_tree.judges) == ("registered", False)
    assert "device-tree" in refusal(WITHOUT_TREE)


def test_with_rules_no_tree_need_be_listed():
    table = {"mode": "rules", "pack": "qemu-virt", "cpus": {"min": 1, "max": 4}, "bootargs": {"exact": ["quiet"]}}
    workload = parse_workload({**WITHOUT_TREE, "device_tree": table})
    assert workload.device_tree.judges
    assert parse_workload(workload_document(workload)) == workload


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"mode": "rules"}, "needs the name of a rule pack"),
        ({"mode": "rules", "pack": "../../etc/passwd"}, "device_tree.pack"),
        ({"pack": "qemu-virt"}, 'need mode = "rules"'),
        ({"bootargs": {"exact": ["quiet"]}}, 'need mode = "rules"'),
        ({"allow_seeds": True}, 'need mode = "rules"'),
        ({"mode": "generated"}, "device_tree.mode"),
        ({"mode": "rules", "pack": "p", "bootargs": {"forbidden": ["init"]}}, "forbidden only takes away"),
    ],
)
def test_tables_of_device_trees_that_would_not_do_what_they_seem_to(table, message):
    assert message in refusal({**LEAST, "device_tree": table})
