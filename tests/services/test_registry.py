"""What administrators register and revoke, and what the service refuses before the store sees it."""

import pytest

from kbs_rim.adapters.db import Store
from kbs_rim.appraisal.workload import Role
from kbs_rim.errors import Conflict, InvalidDocument, NotFound
from kbs_rim.limits import Limits
from kbs_rim.measurement.image import measure_image
from kbs_rim.ports import ImageState
from kbs_rim.services.registry import Registry
from tests.pe_builder import PeFile, Section, uki
from tests.registry_values import AT, SettableClock, appraisal, kernel_bytes, release, workload

INITRD = b"an initrd " * 500


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock()


@pytest.fixture
def registry(sqlite_store: Store, clock: SettableClock) -> Registry:
    return Registry(
        images=sqlite_store.images,
        workloads=sqlite_store.workloads,
        secrets=sqlite_store.secrets,
        records=sqlite_store.record_reader,
        clock=clock,
        limits=Limits(),
    )


def tree_bytes(vectors) -> bytes:
    data = min((vectors / "images").rglob("*.dtb")).read_bytes()
    return data.ljust(int.from_bytes(data[4:8], "big"), b"\0")  # stored without its padding, see tests/vectors/README.md


def submission(content: bytes = INITRD, **changed: object) -> dict:
    document = {
        "name": "an image",
        "roles": ["initrd"],
        "measurements": measure_image(content).to_document(),
        "provenance": {},
        "actor": "ada",
    }
    return document | changed


async def test_an_image_is_registered_with_who_when_and_whence(registry: Registry) -> None:
    provenance = {"package": "debian-installer-12-netboot-arm64", "version": "20230607+deb12u8"}
    record, created = await registry.register_image(**submission(roles=["initrd", "firmware", "initrd"], provenance=provenance))
    assert created
    assert (record.id, record.name, record.state) == (measure_image(INITRD).image_id, "an image", ImageState.ACTIVE)
    assert set(record.roles) == {Role.FIRMWARE, Role.INITRD}
    assert (record.registered_at, record.registered_by, record.provenance) == (AT, "ada", provenance)
    assert await registry.get_image(record.id) == record
    assert await registry.list_images() == [record]


async def test_registering_again_is_not_new_and_may_add_a_role(registry: Registry) -> None:
    await registry.register_image(**submission())
    record, created = await registry.register_image(**submission(roles=["firmware"], name="another name"))
    assert not created
    assert (record.name, set(record.roles)) == ("an image", {Role.INITRD, Role.FIRMWARE})


@pytest.mark.parametrize(
    "changed",
    [
        {"name": ""},
        {"name": "a\0b"},
        {"name": "a\n"},
        {"name": "x" * 201},
        {"name": 7},
        {"name": None},
        {"roles": []},
        {"roles": "initrd"},
        {"roles": ["no such role"]},
        {"roles": [["initrd"]]},
        {"roles": [{}]},
        {"roles": None},
        {"measurements": {}},
        {"measurements": None},
        {"measurements": measure_image(INITRD).with_granules_of().to_document()},
        {"provenance": []},
        {"provenance": {"size": 1.5}},
        {"provenance": {"text": "\ud800"}},
        {"provenance": {"text": "x" * 16384}},
    ],
)
async def test_a_submission_that_is_not_valid_registers_nothing(registry: Registry, changed: dict) -> None:
    with pytest.raises(InvalidDocument) as caught:
        await registry.register_image(**submission(**changed))
    assert caught.value.finding_id == "document.image"
    assert await registry.list_images() == []


async def test_an_image_cannot_be_registered_for_a_role_that_its_kind_cannot_play(registry: Registry, vectors) -> None:
    with pytest.raises(InvalidDocument, match="arm64-image"):
        await registry.register_image(**submission(roles=["kernel"]))
    with pytest.raises(InvalidDocument, match="device-tree"):
        await registry.register_image(**submission(roles=["initrd", "device-tree"]))
    await registry.register_image(**submission(kernel_bytes(), roles=["kernel"]))
    await registry.register_image(**submission(tree_bytes(vectors), roles=["device-tree"]))


@pytest.mark.parametrize(
    ("content", "can", "cannot"),
    [
        (PeFile([Section(".text", b"code")]).build(), ["boot-loader", "kernel", "boot-file"], ["uki", "uki-addon", "device-tree"]),
        (uki((".linux", b"k"), (".cmdline", b"quiet")), ["uki", "boot-loader"], ["device-tree"]),
        (INITRD, ["boot-file", "acpi", "initrd"], ["boot-loader", "uki", "uki-addon", "kernel"]),
    ],
    ids=["program", "uki", "file"],
)
async def test_roles_in_a_measured_boot_fit_what_the_image_is(
    registry: Registry, content: bytes, can: list[str], cannot: list[str]
) -> None:
    for role in cannot:
        with pytest.raises(InvalidDocument, match="can be a"):
            await registry.register_image(**submission(content, roles=[role]))
    record, _ = await registry.register_image(**submission(content, roles=can))
    assert {role.value for role in record.roles} == set(can)


async def test_a_revocation_names_what_it_touches(registry: Registry, sqlite_store: Store, vectors) -> None:
    kernel, _ = await registry.register_image(**submission(kernel_bytes(), roles=["kernel"]))
    tree, _ = await registry.register_image(**submission(tree_bytes(vectors), roles=["device-tree"]))
    initrd, _ = await registry.register_image(**submission())
    await registry.register_workload(workload("web", kernel, tree, initrd), actor="ada")
    await registry.register_workload(workload("db", kernel, tree), actor="ada")
    for path, names in (("r/t/web", ["web"]), ("r/t/db", ["db"]), ("r/t/both", ["web", "db"]), ("r/t/none", [])):
        await sqlite_store.secrets.create_secret(path, path.replace("/", "-"), names, registry._change("ada", "secret.create", path, {}))
    await sqlite_store.records.append_appraisal(appraisal("ticket-1", images=(initrd.id,)), {})
    await sqlite_store.records.append_release(release("ticket-1"), registry_sequence=await sqlite_store.images.registry_sequence())

    assert await registry.touched_by(initrd.id) == {"workloads": ["web"], "secrets": ["r/t/both", "r/t/web"], "past_releases": 1}
    revoked, touched = await registry.set_image_state(initrd.id, "revoked", reason="CVE-2026-1", actor="bob")
    assert (revoked.state, revoked.state_by, revoked.state_reason) == (ImageState.REVOKED, "bob", "CVE-2026-1")
    assert touched == {"workloads": ["web"], "secrets": ["r/t/both", "r/t/web"], "past_releases": 1}
    _, touched = await registry.set_image_state(kernel.id, "deprecated", reason="old", actor="bob")
    assert touched == {"workloads": ["db", "web"], "secrets": ["r/t/both", "r/t/db", "r/t/web"], "past_releases": 0}


async def test_a_revoked_image_stays_revoked(registry: Registry) -> None:
    record, _ = await registry.register_image(**submission())
    await registry.set_image_state(record.id, "deprecated", reason="old", actor="ada")
    await registry.set_image_state(record.id, "active", reason="needed", actor="ada")
    await registry.set_image_state(record.id, "revoked", reason="CVE", actor="ada")
    with pytest.raises(Conflict):
        await registry.set_image_state(record.id, "active", reason="please", actor="ada")
    with pytest.raises(Conflict):
        await registry.register_image(**submission())
    with pytest.raises(NotFound):
        await registry.set_image_state("sha256:" + "0" * 64, "revoked", reason="CVE", actor="ada")


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("gone", "why"),
        ([], "why"),
        (None, "why"),
        ("revoked", ""),
        ("revoked", " "),
        ("revoked", "a\0b"),
        ("revoked", "x" * 1001),
        ("revoked", 7),
    ],
)
async def test_a_change_of_state_without_a_state_or_a_reason_is_refused(registry: Registry, state: object, reason: object) -> None:
    record, _ = await registry.register_image(**submission())
    with pytest.raises(InvalidDocument):
        await registry.set_image_state(record.id, state, reason=reason, actor="ada")
    assert (await registry.get_image(record.id)).state is ImageState.ACTIVE


async def test_workloads_are_registered_retired_and_listed(registry: Registry, vectors, clock: SettableClock) -> None:
    kernel, _ = await registry.register_image(**submission(kernel_bytes(), roles=["kernel"]))
    tree, _ = await registry.register_image(**submission(tree_bytes(vectors), roles=["device-tree"]))
    first = await registry.register_workload(workload("web", kernel, tree), actor="ada")
    clock.advance(days=1)
    second = await registry.register_workload(workload("web", kernel, tree, description="newer"), actor="bob")
    assert (first.revision, second.revision, second.registered_by) == (1, 2, "bob")
    assert second.registered_at - first.registered_at == clock.at - AT
    assert await registry.get_workload("web", 1) == first
    assert not (await registry.retire_workload("web", actor="ada")).active
    assert [record.active for record in await registry.list_workloads()] == [False]
    with pytest.raises(NotFound):
        await registry.retire_workload("nobody", actor="ada")


async def test_every_change_says_who_did_what_to_which_object(registry: Registry, sqlite_store: Store, vectors) -> None:
    kernel, _ = await registry.register_image(**submission(kernel_bytes(), roles=["kernel"], provenance={"package": "linux"}))
    tree, _ = await registry.register_image(**submission(tree_bytes(vectors), roles=["device-tree"]))
    await registry.register_workload(workload("web", kernel, tree), actor="bob")
    await registry.retire_workload("web", actor="cyd")
    await registry.set_image_state(kernel.id, "revoked", reason="CVE", actor="dan")
    changes = [record for _, record in reversed(await sqlite_store.record_reader.list_changes())]
    assert [(record.action, record.subject, record.actor) for record in changes] == [
        ("image.register", kernel.id, "ada"),
        ("image.register", tree.id, "ada"),
        ("workload.register", "web", "bob"),
        ("workload.retire", "web", "cyd"),
        ("image.revoked", kernel.id, "dan"),
    ]
    assert changes[0].detail == {"name": "an image", "roles": ["kernel"], "provenance": {"package": "linux"}}
    assert changes[4].detail == {"reason": "CVE"}
