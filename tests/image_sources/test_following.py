"""Following sources: proposals, approvals, and that nothing becomes trusted by itself."""

from datetime import timedelta
from email.utils import format_datetime

import pytest

from kbs_rim.errors import InvalidDocument, RefusedSource
from kbs_rim.image_sources.apt_source import AptSource
from kbs_rim.image_sources.collecting import Collector
from kbs_rim.image_sources.follow_state import Action, FollowState, load_state, parse_state, save_state, state_bytes
from kbs_rim.image_sources.following import Follower
from kbs_rim.image_sources.sources_file import Consent, FollowRule, Sources
from tests.package_forge import NOW, Package, Repository, arm64_kernel, sha256_of


class Registry:
    """What a broker would hold."""

    def __init__(self):
        self.images, self.deprecated = {}, {}

    def knows(self, image_id):
        return image_id in self.images

    def register(self, images):
        self.images |= {image.found.measurements.image_id: image for image in images}

    def deprecate(self, image_id, reason):
        self.deprecated[image_id] = reason


class World:
    """A repository, an administrator's files, and a broker."""

    def __init__(self, repository: Repository):
        self.repository, self.registry, self.state = repository, Registry(), FollowState()
        self.days, self.max_age_days = 0, 30

    def release(self, version: str, seed: bytes) -> str:
        self.days += 1
        self.repository.packages.append(Package("linux-image-1", version, (("./boot/vmlinuz-1", arm64_kernel(seed=seed)),)))
        self.repository.fields["Date"] = format_datetime(NOW + timedelta(days=self.days), usegmt=True)
        self.repository.publish()
        return f"sha256:{sha256_of(arm64_kernel(seed=seed))}"

    def follower(self, **rule: object) -> tuple[Follower, tuple[FollowRule, ...]]:
        signer = self.repository.signer
        source = AptSource(
            name="debian",
            uri=self.repository.uri,
            suite="bookworm",
            keyring=self.repository.folder.parent / "archive.gpg",
            signed_by=(signer.fingerprint,),
            max_age_days=self.max_age_days,
        )
        rules = (FollowRule(**({"name": "kernel", "source": "debian", "package": "linux-image-1"} | rule)),)
        now = NOW + timedelta(days=self.days, hours=1)
        collector = Collector(Sources((source,), rules), now, newest_seen=self.state.newest)
        return Follower(collector, self.state, self.registry), rules

    def look(self, **rule: object):
        follower, rules = self.follower(**rule)
        events = list(follower.look(rules))
        self.state = parse_state(state_bytes(self.state))
        return events


@pytest.fixture
def world(repository) -> World:
    return World(repository)


def test_a_new_version_is_proposed_once_and_trusts_nothing(world):
    new = world.release("6.2-1", b"new")
    [event] = world.look()
    proposal = event.proposal
    assert (event.what, proposal.action, proposal.version, proposal.images[0].image_id) == ("proposed", Action.REGISTER, "6.2-1", new)
    assert world.registry.images == {}
    assert list(world.state.proposals) == [proposal.id]
    assert [again.what for again in world.look()] == ["done before"]


def test_an_approval_registers_with_who_approved(world):
    new = world.release("6.2-1", b"new")
    [event] = world.look()
    follower, _ = world.follower()
    follower.approve(event.proposal.id, by="anna")
    words = world.registry.images[new].provenance
    assert (words["approved"], words["proposal"], words["package-version"]) == ("anna", event.proposal.id, "6.2-1")
    assert not world.state.proposals
    with pytest.raises(InvalidDocument) as caught:
        follower.approve(event.proposal.id, by="anna")
    assert (caught.value.finding_id, caught.value.seen) == ("document.sources", "it was approved")


def test_a_rejected_proposal_does_not_come_back(world):
    world.release("6.2-1", b"new")
    [event] = world.look()
    world.state.settle(event.proposal.id, "rejected")
    world.state.looked_at.clear()
    assert world.look() == []
    assert world.registry.images == {}


def test_an_older_image_is_proposed_for_deprecation_when_its_successor_is_approved(world):
    old = world.release("6.2-1", b"old")
    [first] = world.look(supersede=Consent.ASK)
    world.follower()[0].approve(first.proposal.id, by="anna")
    world.release("6.3-1", b"new")
    [event] = world.look(supersede=Consent.ASK)
    follower, _ = world.follower(supersede=Consent.ASK)
    _, deprecation = follower.approve(event.proposal.id, by="anna")
    assert (deprecation.what, deprecation.proposal.action, deprecation.proposal.images[0].image_id) == ("proposed", Action.DEPRECATE, old)
    assert world.registry.deprecated == {}
    follower.approve(deprecation.proposal.id, by="anna")
    assert "linux-image-1 6.3-1" in world.registry.deprecated[old]


def test_a_rule_may_approve_by_itself_within_its_versions(world):
    automatic = {"approve": Consent.AUTOMATIC, "versions": ("6.*",), "supersede": Consent.AUTOMATIC}
    old = world.release("6.2-1", b"old")
    assert [event.what for event in world.look(**automatic)] == ["proposed", "approved"]
    assert world.registry.images[old].provenance["approved"] == "rule kernel"
    world.release("7.0-1", b"too new")
    assert [event.what for event in world.look(**automatic)] == ["done before"]
    new = world.release("6.3-1", b"new")
    assert [event.what for event in world.look(**automatic)] == ["proposed", "approved", "proposed", "approved"]
    assert set(world.registry.images) == {old, new}
    assert set(world.registry.deprecated) == {old}


def test_attack_a_mirror_shows_an_old_release_that_never_ends_to_a_rule_that_approves_by_itself(world):
    """Debian's stable suites have no Valid-Until: without a file of what was seen before, a release of years ago looks like today's."""
    automatic = {"approve": Consent.AUTOMATIC, "versions": ("6.*",)}
    world.release("6.2-1", b"full of holes")
    world.days, world.max_age_days = 1000, None
    proposed, failed = world.look(**automatic)
    assert (proposed.what, failed.what, failed.error.finding_id) == ("proposed", "failed", "source.expired")
    assert world.registry.images == {}
    assert list(world.state.proposals) == [proposed.proposal.id]
    world.state = FollowState()
    world.repository.fields["Valid-Until"] = format_datetime(world.follower()[0]._collector.now + timedelta(days=7), usegmt=True)
    world.repository.publish()
    assert [event.what for event in world.look(**automatic)] == ["proposed", "approved"]


def test_a_package_that_was_exchanged_before_its_approval_is_refused(world):
    world.release("6.2-1", b"honest")
    [event] = world.look()
    world.repository.packages.pop()
    world.release("6.2-1", b"exchanged")
    follower, _ = world.follower()
    with pytest.raises(RefusedSource) as caught:
        follower.approve(event.proposal.id, by="anna")
    assert caught.value.finding_id == "source.unexpected"
    assert world.registry.images == {}
    assert event.proposal.id in world.state.proposals


def test_a_forged_proposal_registers_nothing(world):
    """Whoever can write the file of proposals still cannot choose what an approval registers."""
    world.release("6.2-1", b"honest")
    [event] = world.look()
    evil = state_bytes(world.state).replace(event.proposal.images[0].image_id.encode(), b"sha256:" + b"0" * 64)
    world.state = parse_state(evil)
    [forged] = world.state.proposals
    with pytest.raises(RefusedSource) as caught:
        world.follower()[0].approve(forged, by="anna")
    assert caught.value.finding_id == "source.unexpected"
    assert world.registry.images == {}


def test_a_rule_that_fails_does_not_keep_others_from_being_looked_at(world):
    follower, rules = world.follower()
    events = list(follower.look((FollowRule(name="gone", source="debian", package="no-such-package"), *rules)))
    assert [(event.what, getattr(event.error, "finding_id", None)) for event in events] == [
        ("failed", "source.package-unknown"),
        ("proposed", None),
    ]


def test_what_is_registered_already_is_not_proposed(world):
    world.registry.images[f"sha256:{sha256_of(arm64_kernel())}"] = None
    assert [event.what for event in world.look()] == ["done before"]


def test_the_file_is_read_back_and_private(world, tmp_path):
    world.release("6.2-1", b"new")
    world.look()
    path = tmp_path / "state" / "images.json"
    assert load_state(path) == FollowState()
    save_state(path, world.state)
    assert load_state(path) == world.state
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"version": 2}', b'{"version": 1, "newest": {"a": "yesterday"}}', b"\xff"])
def test_a_damaged_file_is_refused(data):
    with pytest.raises(InvalidDocument) as caught:
        parse_state(data)
    assert caught.value.finding_id == "document.sources"
