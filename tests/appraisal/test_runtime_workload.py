"""The ``runtime`` table of workloads: what is valid, and what no workload may say."""

import re
import tomllib
from pathlib import Path

import pytest
from stage import QEMU_KERNEL

from kbs_rim.appraisal.runtime_workload import ACTIONS, RuntimeRules
from kbs_rim.appraisal.workload import Role, parse_workload, workload_document
from kbs_rim.errors import InvalidDocument

IMAGE = "sha256:" + "ab" * 32
LOGS = [{"kind": "cc"}]
PAGE = Path(__file__).parents[2] / "docs" / "workloads.md"


def document(rems=("log", "zero", "zero", "zero"), **runtime) -> dict:
    return {**QEMU_KERNEL.workload_document("web"), "realm": {"rems": list(rems)}, "runtime": {"logs": LOGS, **runtime}}


def test_the_table_is_read_back_as_it_was_stored():
    workload = parse_workload(
        document(
            images=[{"role": "uki", "images": [IMAGE], "required": False}],
            command_line={"required": ["root=/dev/vda"], "allowed": ["quiet"]},
            secure_boot={"state": "on", "db": ["00" * 32]},
            digests=[{"rem": 2, "digest": "ab" * 48, "comment": "a font"}],
            unknown={"rem2": "warn"},
        )
    )
    assert parse_workload(workload_document(workload)) == workload
    assert workload.runtime.actions == ACTIONS
    assert workload.runtime.digests[0].digest == "ab" * 48
    assert [workload.runtime.unknown.tolerated(rem) for rem in range(4)] == [False, False, True, False]


def test_images_that_are_measured_are_images_of_the_workload():
    workload = parse_workload(document(images=[{"role": "uki", "images": [IMAGE]}]))
    assert IMAGE in workload.image_ids
    assert (Role.UKI, IMAGE) in workload.named_images
    assert workload.roles_of(IMAGE) == (), "no VMM may load it"
    assert workload.runtime.roles_of(IMAGE) == (Role.UKI,)


def test_old_workloads_have_no_table():
    workload = parse_workload(QEMU_KERNEL.workload_document("web"))
    assert workload.runtime is None
    assert workload.realm.logged == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"realm": {}}, "judges nothing"),
        ({"runtime": None}, "which logs"),
        ({"realm": {"rems": ["log", "zero", "zero", []]}}, "empty list"),
    ],
)
def test_registers_are_explained_by_logs_or_by_values(change, words):
    with pytest.raises(InvalidDocument, match=words):
        parse_workload({**document(), **change})


@pytest.mark.parametrize(
    ("runtime", "words"),
    [
        ({"logs": []}, "logs"),
        ({"logs": [{"kind": "vmm"}]}, "explains the RIM"),
        ({"logs": [{"kind": "cc"}, {"kind": "cc"}]}, "twice"),
        ({"logs": [{"kind": "syslog"}]}, "kind"),
        ({"images": [{"role": "uki", "images": []}]}, "images"),
        ({"images": [{"role": "uki", "images": [IMAGE]}] * 2}, "twice"),
        ({"grub_commands": ["set *"]}, "measured_by"),
        ({"grub_commands": ["set *"], "command_line": {"measured_by": "boot-loader"}}, "measured_by"),
        ({"grub_commands": ["* * * *"], "command_line": {}}, "3 stars"),
        ({"actions": ["\x1b[2J"]}, "actions"),
        ({"digests": [{"rem": 4, "digest": "ab" * 32}]}, "rem"),
        ({"digests": [{"rem": 0, "digest": "ab"}]}, "32, 48 or 64"),
        ({"secure_boot": {"db": []}}, "db"),
        ({"secure_boot": {"state": "maybe"}}, "state"),
        ({"boot_variables": "all"}, "boot_variables"),
        ({"ima": {"mode": "any", "files": [{"path": "/x"}]}}, "leave out files"),
        ({"ima": {"files": [{"path": f"/{number}"} for number in range(65)]}}, "64 entries"),
        ({"cel": [{"rem": 0, "type": 5, "contents": ["00" * 32]}]}, "type"),
        ({"aael": [{"domain": "****", "operation": "x"}]}, "3 stars"),
        ({"unknown": "warn"}, "unknown"),
        ({"unknown": {"rem4": "warn"}}, "rem4"),
        ({"seperators": [0]}, "seperators"),
    ],
)
def test_tables_that_are_refused(runtime, words):
    with pytest.raises(InvalidDocument, match=words):
        parse_workload(document(**runtime))


def test_roles_that_no_vmm_loads_belong_to_the_table():
    base = document()
    base["images"] = [*base["images"], {"role": "uki", "images": [IMAGE]}]
    with pytest.raises(InvalidDocument, match=r"runtime\.images"):
        parse_workload(base)


def test_the_examples_of_the_reference_are_valid():
    examples = re.findall(r"^```toml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    tables = [table for table in map(tomllib.loads, examples) if "realm" in table and "runtime" in table]
    assert len(tables) >= 2
    for table in tables:
        assert isinstance(parse_workload({**QEMU_KERNEL.workload_document("web"), **table}).runtime, RuntimeRules)
