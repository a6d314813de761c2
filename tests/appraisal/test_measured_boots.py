"""Real boots as realms: every event is explained as its oracle says, and a workload made from the oracle lets exactly that in."""

import pytest
from measured_boot import NAMES, MeasuredBoot, RuntimeStage
from stage import error_ids

from kbs_rim.appraisal.event_classes import EventClass

IMAGE, EXPECTED, CONSTANT, NAMED = EventClass.IMAGE, EventClass.EXPECTED, EventClass.CONSTANT, EventClass.NAMED


@pytest.fixture(params=NAMES)
def boot(request) -> MeasuredBoot:
    return MeasuredBoot(request.param)


def stage_of(boot: MeasuredBoot, **changes) -> RuntimeStage:
    return RuntimeStage({**boot.table(), **changes}, [("tpm", boot.log)], boot.images)


def test_a_measured_boot_is_let_in(boot):
    verdict = stage_of(boot).judge()
    assert [finding.to_document() for finding in verdict.findings if finding.severity.value == "error"] == []
    assert verdict.allowed
    assert sum(verdict.facts["runtime"]["events"]) == len(boot.events)
