"""Audit over HTTP: what was asked, judged, released and changed; filters, pages, and queries that make no sense."""

import hashlib
import json
from datetime import timedelta

from sqlalchemy import text

from kbs_rim.appraisal.finding_catalogue import CATALOGUE
from kbs_rim.ledger.canonical import canonical_json
from tests.broker_stage import Site, expect

VM = "qemu-kernel"


async def some_history(site: Site) -> None:
    """Allowed, refused by the boot plan, refused by the RIM, and a firmware VM, a minute apart; oldest first."""
    for vm, simulated in (
        (VM, {}),
        (VM, {"lie": "pc-off-entry"}),
        ("kvmtool-kernel", {"lie": "tampered-kernel"}),
        ("qemu-firmware", {}),
    ):
        await site.attempt(vm, **simulated)
        site.clock.advance(10)


async def test_filters_find_what_they_say_and_nothing_else(site: Site) -> None:
    await some_history(site)
    every = await site.appraisals()
    assert [record["secret"] for record in every] == ["qemu-firmware", "kvmtool-kernel", VM, VM], "newest first"
    firmware, tampered, off_entry, allowed = every
    image = allowed["facts"]["images"][0]
    instance_id = site.trust.stage.identity.instance_id.hex()
    questions = [
        ({"verdict": "allowed"}, [firmware, allowed]),
        ({"verdict": "unavailable"}, []),
        ({"secret": VM}, [off_entry, allowed]),
        ({"workload": "kvmtool-kernel"}, [tampered]),
        ({"finding": "boot.entry-point"}, [off_entry]),
        ({"finding": "no.such-finding"}, []),
        ({"image": image}, [record for record in every if image in record["facts"].get("images", [])]),
        ({"instance_id": instance_id}, every),
        ({"instance_id": instance_id.upper()}, every),
        ({"instance_id": "00"}, []),
        ({"after": off_entry["at"]}, [firmware, tampered, off_entry]),
        ({"before": off_entry["at"]}, [allowed]),
        ({"after": off_entry["at"], "before": firmware["at"]}, [tampered, off_entry]),
        ({"verdict": "refused", "secret": VM}, [off_entry]),
    ]
    for query, expected in questions:
        assert await site.appraisals(**query) == expected, query


async def test_pages_follow_each_other_without_gap_or_repetition(site: Site) -> None:
    await some_history(site)
    whole = [record["id"] for record in await site.appraisals()]
    for size in (1, 2, 3):
        found, cursor = [], None
        while True:
            page = await site.get("/audit/v1/appraisals", params={"limit": str(size), **({"cursor": cursor} if cursor else {})})
            found += [record["id"] for record in page["appraisals"]]
            cursor = page["next"]
            if cursor is None:
                break
        assert found == whole


async def test_queries_that_make_no_sense_are_told_so(site: Site) -> None:
    for query in (
        {"verdict": "good"},
        {"verdict": ""},
        {"since": "2026"},
        {"after": "yesterday"},
        {"after": ""},
        {"before": "0001-01-01T00:00:00+23:59"},
        {"before": "9999-12-31T23:59:59-23:59"},
    ):
        answer = await site.ask("GET", "/audit/v1/appraisals", params=query)
        assert answer.status == 400, (query, answer)
    for cursor in ("x", "00", "\0", "'"):
        assert (await site.ask("GET", "/audit/v1/appraisals", params={"cursor": cursor})).status == 404
    for cursor in ("x", "-1", "1.5", "\u0661x", "1" * 40):
        assert (await site.ask("GET", "/audit/v1/changes", params={"cursor": cursor})).status == 400
    for cursor in ("0", "1" * 18):
        assert (await site.ask("GET", "/audit/v1/changes", params={"cursor": cursor})).status == 200


async def test_hostile_filter_values_are_values(site: Site) -> None:
    await some_history(site)
    for name in ("secret", "workload", "finding", "image", "instance_id"):
        for value in ("' OR 1=1 --", "\0", "%", "_", "x" * 3000, "\U0001f600"):
            assert await site.appraisals(**{name: value}) == []


async def test_one_appraisal_is_shown_whole_with_a_digest_that_anybody_can_check(site: Site) -> None:
    answer = await site.attempt()
    shown = await site.record(answer.document["ticket"])
    assert set(shown) >= {"appraisal", "digest", "releases"}
    record = shown["appraisal"]
    assert shown["digest"] == hashlib.sha256(canonical_json(record)).hexdigest()
    assert record["type"] == "appraisal"
    assert {finding["id"] for finding in record["findings"]} <= set(CATALOGUE)
    [release] = shown["releases"]
    assert set(release) == {"type", "appraisal", "at", "secret", "version", "key_thumbprint", "sealing"}
    assert release["appraisal"] == record["id"]


async def test_payloads_are_the_bytes_that_were_judged(site: Site) -> None:
    answer = await site.attempt(lie="pc-off-entry")
    record = (await site.record(answer.document["ticket"]))["appraisal"]
    assert set(record["inputs"]) == {"token", "log.vmm", "attestation-result"}
    for digest in record["inputs"].values():
        payload = await expect(site, 200, "GET", f"/audit/v1/payloads/{digest}", who="auditor")
        assert hashlib.sha256(payload.body).hexdigest() == digest
        assert payload.headers["Content-Type"] == "application/octet-stream"
        assert payload.headers["Content-Disposition"] == f'attachment; filename="{digest}.bin"'
        assert payload.headers["X-Content-Type-Options"] == "nosniff"
    assert (await expect(site, 404, "GET", "/audit/v1/payloads/" + "0" * 64)).code == "record.payload-unknown"


async def test_a_payload_that_was_changed_in_the_database_is_not_shown(site: Site) -> None:
    answer = await site.attempt()
    digest = (await site.record(answer.document["ticket"]))["appraisal"]["inputs"]["token"]
    async with site.store.database.writing() as session:
        await session.execute(text("UPDATE payloads SET content = :c WHERE sha256 = :d"), {"c": b"forged", "d": digest})
    answer = await site.ask("GET", f"/audit/v1/payloads/{digest}")
    assert answer.status == 503
    assert b"forged" not in answer.body


async def test_changes_say_who_did_what_newest_first(site: Site) -> None:
    image = (await site.get("/admin/v1/images"))["images"][0]["id"]
    path = f"/admin/v1/images/{image}/state"
    await expect(site, 200, "POST", path, {"state": "deprecated", "reason": "an old one"})
    await expect(site, 200, "POST", path, {"state": "revoked", "reason": "a bad one"})
    changes = (await site.get("/audit/v1/changes", params={"subject": image}, who="auditor"))["changes"]
    assert [change["action"] for change in changes] == ["image.revoked", "image.deprecated", "image.register"]
    assert {change["actor"] for change in changes} == {"an-admin"}
    assert changes[0]["detail"] == {"reason": "a bad one"}
    numbers = [change["number"] for change in changes]
    assert numbers == sorted(numbers, reverse=True)
    every = (await site.get("/audit/v1/changes", params={"limit": "500"}))["changes"]
    actions = {change["action"] for change in every}
    assert {"image.register", "workload.register", "secret.create", "secret.version", "principal.add"} <= actions
    page = await site.get("/audit/v1/changes", params={"limit": "2"})
    following = await site.get("/audit/v1/changes", params={"limit": "2", "cursor": str(page["next"])})
    assert [change["number"] for change in page["changes"] + following["changes"]] == [change["number"] for change in every[:4]]


async def test_what_changes_nothing_is_no_change(site: Site) -> None:
    before = await site.get("/audit/v1/changes")
    await site.ask("POST", "/admin/v1/images", {})
    await site.ask("POST", f"/admin/v1/workloads/{'no-such'}/retire")
    await site.ask("PUT", f"/admin/v1/secrets/vault/disk/{VM}/workloads", {"workloads": [VM]})
    await site.fetch()
    assert await site.get("/audit/v1/changes") == before


async def test_every_administrative_change_is_on_record(site: Site) -> None:
    """One call of each kind, and each leaves one entry with its subject."""
    calls = [
        ("POST", f"/admin/v1/secrets/vault/disk/{VM}/versions", {"value": "AAAA"}, "secret.version", f"vault/disk/{VM}"),
        ("POST", f"/admin/v1/secrets/vault/disk/{VM}/versions/1/revoke", None, "secret.revoke", f"vault/disk/{VM}"),
        ("PUT", f"/admin/v1/secrets/vault/disk/{VM}/workloads", {"workloads": []}, "secret.bind", f"vault/disk/{VM}"),
        ("POST", f"/admin/v1/workloads/{VM}/retire", None, "workload.retire", VM),
    ]
    for method, path, document, action, subject in calls:
        answer = await site.ask(method, path, document)
        assert answer.status in (200, 201), answer
        [newest] = (await site.get("/audit/v1/changes", params={"limit": "1"}))["changes"]
        assert (newest["action"], newest["subject"], newest["actor"]) == (action, subject, "an-admin")


async def test_the_catalogue_of_findings_is_served(site: Site) -> None:
    findings = (await site.get("/audit/v1/findings", who="auditor"))["findings"]
    assert {finding["id"] for finding in findings} == set(CATALOGUE)
    assert all(finding["title"] and finding["remedy"] for finding in findings)


async def test_records_are_the_same_after_years(site: Site) -> None:
    """The digest covers the stored form: whatever the API shows is what was written."""
    await some_history(site)
    before = [await site.record(record["id"]) for record in await site.appraisals()]
    site.clock.advance(timedelta(days=3650).total_seconds())
    after = [await site.record(record["id"]) for record in await site.appraisals()]
    assert json.dumps(before) == json.dumps(after)
