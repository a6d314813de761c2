"""Granule digests are megabytes for each image: a log that cannot be replayed does not make the broker fetch them."""

import pytest

from kbs_rim.adapters.db.images import Images
from kbs_rim.realm.lies import Lie
from tests.broker_stage import Site


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each look-up of images by digest: were granule digests asked for?"""
    asked: list[bool] = []
    find = Images.find_images

    async def recorded(self, digests, *, with_granules=True):
        asked.append(with_granules)
        return await find(self, digests, with_granules=with_granules)

    monkeypatch.setattr(Images, "find_images", recorded)
    return asked


async def test_an_honest_realm_needs_them(site: Site, fetched: list[bool]) -> None:
    assert (await site.attempt()).status == 200
    assert fetched == [True]


@pytest.mark.parametrize("lie", [Lie.UNREGISTERED_IMAGE, Lie.LOG_WITHOUT_CREATE])
async def test_attack_log_that_cannot_be_replayed_costs_no_digests(site: Site, fetched: list[bool], lie: Lie) -> None:
    assert (await site.attempt(lie=lie)).status == 403
    assert True not in fetched
