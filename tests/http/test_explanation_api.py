"""Explaining a refusal over the audit API: with the stored log, and without it."""

from dataclasses import replace

import pytest

from kbs_rim.realm.host_script import HostHabits
from kbs_rim.realm.lies import Lie
from kbs_rim.realm.simulator import TreeDelivery
from tests.broker_stage import VMS


async def refused(site, **simulated):
    answer = await site.attempt(**simulated)
    assert answer.status == 403
    return answer.document["ticket"]


async def explanation(site, ticket, who="auditor"):
    answer = await site.ask("GET", f"/audit/v1/appraisals/{ticket}/explanation", who=who)
    assert answer.status == 200
    return answer.document["reasons"]


async def test_an_unknown_image_comes_with_the_nearest_registered_one(site):
    reasons = await explanation(site, await refused(site, lie=Lie.UNREGISTERED_IMAGE))
    reason = next(reason for reason in reasons if reason["finding"]["id"] == "rim.image-unknown")
    assert reason["nearest"][0]["size_difference"] == 0
    assert any("same size and other content" in hint for hint in reason["hints"])
    measurements = await site.ask("GET", f"/admin/v1/images/{reason['nearest'][0]['id']}/measurements", who="auditor")
    assert measurements.status == 200
    assert measurements.document["granules"]


async def test_a_mismatch_is_replayed_in_every_dialect(site):
    reasons = await explanation(site, await refused(site, habits=HostHabits(page_size=65536)))
    reason = next(reason for reason in reasons if reason["finding"]["id"] == "rim.mismatch")
    assert "64k" in reason["hints"][0]
    assert "does not allow" in reason["hints"][0]


async def test_a_tampered_kernel_has_no_such_excuse(site):
    reasons = await explanation(site, await refused(site, lie=Lie.TAMPERED_KERNEL))
    assert any("none of the" in hint for reason in reasons for hint in reason["hints"])


async def test_without_a_readable_log_the_catalogue_explains(site):
    reasons = await explanation(site, await refused(site, lie=Lie.LOG_WITHOUT_CREATE))
    assert {reason["finding"]["id"] for reason in reasons} >= {"plan.realm-create"}
    assert all(reason["title"] and reason["remedy"] for reason in reasons)


async def test_who_may_ask_and_for_what(site):
    assert (await site.ask("GET", "/audit/v1/appraisals/abcdef0123456789/explanation", who="auditor")).status == 404
    assert (await site.ask("GET", "/audit/v1/appraisals/..x/explanation", who="auditor")).status == 404
    assert (await site.ask("GET", "/audit/v1/appraisals/abcdef0123456789/explanation", who=None)).status == 401
    assert (await site.ask("GET", "/admin/v1/images/sha256:00/measurements", who="auditor")).status == 404


@pytest.mark.parametrize("way", [TreeDelivery.ENVELOPE, TreeDelivery.LOG])
async def test_an_unknown_tree_whose_bytes_came_along_is_compared_with_the_nearest(site, way):
    """The host put one word into the boot arguments: the page that holds them is named, with its address in the guest."""
    script = VMS["qemu-kernel"].script
    tree = bytes(script.load("DTB").data)
    other = tree.replace(b"console=ttyAMA0", b"console=ttyAMA1")
    assert len(other) == len(tree)
    loads = tuple(replace(load, data=other) if load.name == "DTB" else load for load in script.loads)
    ticket = await refused(site, script=replace(script, loads=loads), send_tree=way)
    reason = next(reason for reason in await explanation(site, ticket) if reason["finding"]["id"] == "rim.image-unknown")
    base, page = script.load("DTB").base, other.index(b"ttyAMA1") // 4096
    [hint] = [hint for hint in reason["hints"] if "came along" in hint]
    assert hint.startswith("its bytes came along: 1 of ")
    assert hint.endswith(f": {page} at {base + 4096 * page:#x}")
    assert reason["nearest"][0]["name"] in hint


async def test_images_that_findings_name_by_id_have_names(site):
    ticket = await refused(site, lie=Lie.UNMEASURED_INITRD_PAGE)
    reasons = await explanation(site, ticket)
    missing = next(reason for reason in reasons if reason["finding"]["id"] == "boot.role-missing")
    image = missing["finding"]["expected"]
    known = {item["id"]: item["name"] for item in (await site.get("/admin/v1/images", params={"limit": 500}))["images"]}
    assert missing["hints"] == [f"{image[:19]}... is {known[image]} (initrd, active)"]
