"""IGVM files as workloads: what is measured becomes images, what the host may write is refused."""

import json
from pathlib import Path

import pytest
from igvm_forge import Part, context, igvm_file, page, platform, policy
from stage import QEMU_KERNEL, kernel_file

from kbs_rim.errors import InvalidDocument
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.measurement.igvm import parse_igvm
from kbs_rim.measurement.igvm_launch import IgvmLaunch, read_launch
from kbs_rim.measurement.image import measure_image
from kbs_rim.measurement.rmm import RealmCreate
from kbs_rim.measurement.vmm.profile import Region
from kbs_rim.realm.rim_model import Measurements, RealmHash, RealmParams, RecParams
from kbs_rim.workload_sources.igvm_draft import draft_igvm, igvm_rim

RAM = Region(0x80000000, 1 << 28)
ENTRY, TREE = 0x80000000, 0x88000000
UNMEASURED = 2
FIRMWARE = b"firmware".ljust(8192, b"\7")
BLOBS = page(0x90000000, b"a"), page(0x91000000, b"b")
BLOB = bytes(QEMU_KERNEL.script.load("DTB").data)


def pages(base: int, content: bytes, flags: int = 0) -> list[Part]:
    return [page(base + at, content[at : at + 4096], flags) for at in range(0, len(content), 4096)]


def launch_of(*parts: Part, code: int = 0) -> IgvmLaunch:
    return read_launch(parse_igvm(igvm_file([platform(), policy(code), *parts])))


def refusal(*parts: Part) -> str:
    with pytest.raises(InvalidDocument) as caught:
        draft_igvm(launch_of(*parts), "web", RAM)
    assert caught.value.finding_id == "document.workload-draft"
    return caught.value.message


def test_measured_runs_become_images_with_roles():
    draft = draft_igvm(launch_of(*pages(ENTRY, FIRMWARE), *pages(TREE, BLOB), context(ENTRY, TREE), code=2), "web", RAM)
    assert [(image.role, image.base) for image in draft.images] == [("firmware", ENTRY), ("device-tree", TREE)]
    assert draft.images[0].measurements.image_id == measure_image(FIRMWARE).image_id
    assert draft.document["entry"] == {"role": "firmware", "x0": "device-tree"}
    assert draft.document["rmm"] == {"hash_algorithms": ["sha-384"], "versions": ["2.0"]}
    assert (draft.workload.memory.base, draft.workload.memory.size.max) == RAM


def test_a_tree_right_behind_the_firmware_is_an_image_of_its_own():
    draft = draft_igvm(launch_of(*pages(ENTRY, FIRMWARE), *pages(ENTRY + 8192, BLOB), context(ENTRY, ENTRY + 8192)), "web", RAM)
    assert [image.role for image in draft.images] == ["firmware", "device-tree"]


def test_an_arm64_image_is_a_kernel():
    draft = draft_igvm(launch_of(*pages(ENTRY, kernel_file(size=4096)), *pages(TREE, BLOB), context(ENTRY, TREE)), "web", RAM)
    assert draft.document["entry"]["role"] == "kernel"


def test_a_tree_that_the_host_writes_is_refused():
    """As in the synthetic file, and as Microsoft's loader has it: x0 points to a page that nobody measures."""
    file = (Path(__file__).parent.parent / "vectors" / "images" / "igvm" / "synthetic-cca.igvm").read_bytes()
    with pytest.raises(InvalidDocument, match=r"what x0 points to.*the host writes what it likes"):
        draft_igvm(read_launch(parse_igvm(file)), "web", RAM)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([*pages(ENTRY, FIRMWARE), *pages(TREE, BLOB), *pages(0x90000000, b"x", UNMEASURED), context(ENTRY, TREE)], "not measured"),
        ([*pages(ENTRY, FIRMWARE), context(ENTRY)], "no device tree is among"),
        ([*pages(ENTRY, FIRMWARE), *pages(TREE, BLOB), context(ENTRY + 4, TREE)], "not the start of measured pages"),
        ([*pages(ENTRY, FIRMWARE), *pages(TREE, b"no tree"), context(ENTRY, TREE)], "which is no device tree"),
        ([*pages(ENTRY, FIRMWARE), *pages(TREE, BLOB), context(ENTRY, TREE), context(ENTRY, TREE, number=1)], "2 vCPUs are runnable"),
        ([*pages(ENTRY, FIRMWARE), *pages(TREE, BLOB), context(ENTRY, TREE, x1=1)], "x1 to x7"),
        ([*pages(ENTRY, FIRMWARE), *pages(TREE, BLOB), *BLOBS, context(ENTRY, TREE)], "second initrd"),
    ],
    ids=["unmeasured", "no-tree", "entry-inside", "no-tree-at-x0", "two-vcpus", "register", "too-many"],
)  # fmt: skip
def test_what_no_workload_could_let_in_is_refused(parts, words):
    assert words in refusal(*parts)


def test_the_rim_is_that_of_the_model_of_the_rmm():
    launch = launch_of(*pages(ENTRY, FIRMWARE), page(TREE, b"log", UNMEASURED), context(ENTRY, TREE))
    params = RealmCreate(HashAlgorithm.SHA256, 0, 40, 0, 5, 3, 0)
    model = Measurements(RealmParams(RealmHash.SHA256, 0, 40, 0, 5, 3, 0))
    model.measured_data(ENTRY, FIRMWARE[:4096])
    model.measured_data(ENTRY + 4096, FIRMWARE[4096:])
    model.unmeasured_data(TREE)
    model.rec(RecParams(1, ENTRY, (TREE, 0, 0, 0, 0, 0, 0, 0)))
    assert igvm_rim(launch, params) == model.rim


def test_the_document_is_the_workload():
    draft = draft_igvm(launch_of(*pages(ENTRY, FIRMWARE), *pages(TREE, BLOB), context(ENTRY, TREE)), "web", RAM, "for people")
    assert json.loads(json.dumps(draft.document))["description"] == draft.workload.description == "for people"
