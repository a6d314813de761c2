"""An auditor reads the whole record, checked against its digests, and can change nothing."""

import hashlib

import pytest
from sqlalchemy import text

from kbs_rim.adapters.db import Store
from kbs_rim.errors import NotFound, OurFault
from kbs_rim.ports import AppraisalFilter
from kbs_rim.services.audit import Auditor
from tests.registry_values import appraisal, change, image, release

TOKEN = b"token bytes"
INPUTS = {"token": hashlib.sha256(TOKEN).hexdigest()}


@pytest.fixture
def auditor(sqlite_store: Store) -> Auditor:
    return Auditor(sqlite_store.record_reader)


async def test_an_auditor_sees_appraisals_releases_payloads_and_changes(auditor: Auditor, sqlite_store: Store) -> None:
    record = appraisal("ticket-1", inputs=INPUTS)
    await sqlite_store.records.append_appraisal(record, {"token": TOKEN})
    await sqlite_store.records.append_release(release("ticket-1"), registry_sequence=0)
    await sqlite_store.images.add_image(image(), change("image.register"))
    assert await auditor.list_appraisals(AppraisalFilter(finding="policy.accepted")) == [record]
    assert await auditor.get_appraisal("ticket-1") == (record, [release("ticket-1")])
    assert await auditor.get_payload(INPUTS["token"]) == TOKEN
    assert [entry.action for _, entry in await auditor.list_changes(subject=None, cursor=None, limit=10)] == ["image.register"]
    with pytest.raises(NotFound):
        await auditor.get_appraisal("ticket-2")


async def test_a_payload_changed_in_the_database_is_noticed(auditor: Auditor, sqlite_store: Store) -> None:
    await sqlite_store.records.append_appraisal(appraisal("ticket-1", inputs=INPUTS), {"token": TOKEN})
    async with sqlite_store.database.writing() as session:
        await session.execute(text("UPDATE payloads SET content = x'00'"))
    with pytest.raises(OurFault, match="was changed"):
        await auditor.get_payload(INPUTS["token"])


def test_an_auditor_holds_nothing_that_writes(auditor: Auditor) -> None:
    public = {name for name in dir(auditor._records) if not name.startswith("_")}
    assert public == {"list_appraisals", "get_appraisal", "get_payload", "count_releases", "list_changes"}
