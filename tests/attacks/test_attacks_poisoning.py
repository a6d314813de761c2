"""What one client sends changes nothing that another client's appraisal sees: caches hold what was computed, under what was computed."""

from dataclasses import replace

from kbs_rim.realm.lies import Lie
from tests.broker_stage import Answer, Site, Starter

CLEAN, POISONED = 0, 1
ABOUT_IMAGES = [
    Lie.TAMPERED_KERNEL,
    Lie.UNREGISTERED_IMAGE,
    Lie.FORGED_DEVICE_TREE,
    Lie.UNMEASURED_KERNEL_PAGE,
    Lie.UNMEASURED_INITRD,
    Lie.IMAGE_LOGGED_AS_LOG,
    Lie.EXTRA_IMAGE,
    Lie.EXTRA_DATA,
    Lie.REM_MOVED,
]


async def attempt(site: Site, replica: int, **simulated) -> Answer:
    offer = await site.offer(site.exchange(replica=replica))
    return await site.submit(offer, site.realm(**simulated).evidence(offer.challenge), replica=replica)


async def judged(site: Site, replica: int, **simulated) -> tuple[int, dict]:
    """What a client on this replica is told, and all that is on record of why."""
    answer = await attempt(site, replica, **simulated)
    [latest] = await site.appraisals(limit=1)
    record = (await site.record(latest["id"]))["appraisal"]
    facts = {name: value for name, value in record["facts"].items() if name not in ("challenge", "salt", "issued_at")}
    del facts["platform"]["claims"]["iat"]
    volatile = {"offset", "seen", "expected", "where"}  # may quote the challenge
    findings = [{key: value for key, value in finding.items() if key not in volatile} for finding in record["findings"]]
    return answer.status, {"facts": facts, "findings": findings, "verdict": record["verdict"], "workload": record["workload"]}


async def test_attack_digest_poisoning_of_caches_between_two_clients(start: Starter) -> None:
    """A lies to one of two replicas, before and after B was there; B is judged there as on the replica that A never spoke to."""
    site = await start(replicas=2)
    for lie in ABOUT_IMAGES:
        assert (await attempt(site, POISONED, lie=lie)).status == 403
    clean = await judged(site, CLEAN)
    assert clean[0] == 200
    assert await judged(site, POISONED) == clean
    for lie in ABOUT_IMAGES:
        assert await judged(site, POISONED, lie=lie) == await judged(site, CLEAN, lie=lie), lie
    assert await judged(site, POISONED) == clean


async def test_attack_digest_poisoning_by_a_claimed_digest(start: Starter) -> None:
    """A's kernel is his own; his log claims for it, in one algorithm of two, the digest of the kernel that is registered."""
    site = await start(replicas=2)
    honest = site.realm().evidence(bytes(64))
    lied = site.realm(lie=Lie.TAMPERED_KERNEL).evidence(bytes(64))
    assert dict(honest.logs) == dict(lied.logs), "the log of a tampered kernel claims the digest of the registered one"
    offer = await site.offer(site.exchange(replica=POISONED))
    mixed = replace(site.realm(lie=Lie.UNREGISTERED_IMAGE).evidence(offer.challenge), logs=honest.logs)
    assert (await site.submit(offer, mixed, replica=POISONED)).status == 403
    assert await judged(site, POISONED) == await judged(site, CLEAN)
    assert await judged(site, POISONED, lie=Lie.UNREGISTERED_IMAGE) == await judged(site, CLEAN, lie=Lie.UNREGISTERED_IMAGE)
