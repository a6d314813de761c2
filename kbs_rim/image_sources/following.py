"""Following sources: looks for new versions, proposes them, and carries out what was approved.

Nothing becomes trusted by a look. An approval, by a person or by a rule that says so, walks the signed chain again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from kbs_rim.errors import KbsRimError, RefusedSource
from kbs_rim.image_sources.apt_source import AptSource, Offer
from kbs_rim.image_sources.collecting import Collector
from kbs_rim.image_sources.follow_state import Action, FollowState, Proposal, ProposedImage
from kbs_rim.image_sources.origins import SourcedImage
from kbs_rim.image_sources.requests import ImageRequest, RequestKind
from kbs_rim.image_sources.sources_file import Consent, FollowRule


class TrustStore(Protocol):
    """The registry of a broker, as following needs it."""

    def knows(self, image_id: str) -> bool:
        """Return whether an image is registered, whatever its state."""
        ...

    def register(self, images: Sequence[SourcedImage]) -> None:
        """Register all of them or none."""
        ...

    def deprecate(self, image_id: str, reason: str) -> None:
        """Deprecate an image."""
        ...


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a proposal: ``proposed``, ``approved`` or ``done before``; or to a rule, whose ``error`` says what."""

    what: str
    rule: str
    proposal: Proposal | None = None
    error: KbsRimError | None = None


class Follower:
    """Looks, proposes, approves. ``state`` changes here, and its owner saves it."""

    def __init__(self, collector: Collector, state: FollowState, trust: TrustStore) -> None:
        self._collector, self._state, self._trust = collector, state, trust

    def look(self, rules: Sequence[FollowRule]) -> Iterator[Event]:
        """Look at the newest version of each rule; a rule that fails does not keep the others from being looked at."""
        for rule in rules:
            try:
                yield from self._look_at(rule)
            except KbsRimError as error:
                yield Event("failed", rule.name, error=error)

    def approve(self, proposal_id: str, *, by: str) -> list[Event]:
        """Carry out a proposal; return it, and what follows from it.

        Raises ``InvalidDocument`` for one that there is not, ``RefusedSource`` (``source.unexpected``) if the source has something
        else now, and as ``Collector`` does. Then it stays open.
        """
        proposal = self._state.find(proposal_id)
        if proposal.action is Action.DEPRECATE:
            for image in proposal.images:
                self._trust.deprecate(image.image_id, f"superseded: rule {proposal.rule}, {proposal.package} {proposal.version}")
            self._state.settle(proposal_id, "approved")
            return [Event("approved", proposal.rule, proposal)]
        rule = self._rule(proposal.rule)
        images = [
            replace(image, provenance={**image.provenance, "approved": by, "proposal": proposal.id})
            for image in self._collect(rule, self._offer_of(proposal))
        ]
        found = {image.found.measurements.image_id for image in images}
        if found != {image.image_id for image in proposal.images}:
            raise RefusedSource(
                "source.unexpected", "the package does not hold the images that were proposed", seen=", ".join(sorted(found))
            )
        self._trust.register(images)
        self._state.settle(proposal_id, "approved")
        return [Event("approved", rule.name, proposal), *self._supersede(rule, proposal)]

    def _look_at(self, rule: FollowRule) -> Iterator[Event]:
        [source] = self._collector.sources.named(rule.source)
        offers = [offer for offer in self._collector.repository(source).offers(rule.package) if rule.allows(offer.facts.version)]
        if not offers:
            raise RefusedSource("source.package-unknown", f"{source.name} has no version of {rule.package} that {rule.name} is about")
        newest = offers[-1]
        if self._state.looked_at.get(rule.name) == newest.sha256:
            yield Event("done before", rule.name)
            return
        images = self._collect(rule, newest)
        proposed = tuple(ProposedImage(image.found.measurements.image_id, image.name) for image in images)
        proposal = Proposal(
            action=Action.REGISTER,
            rule=rule.name,
            source=source.name,
            package=newest.facts.package,
            version=newest.facts.version,
            package_sha256=newest.sha256,
            images=proposed,
            proposed_at=self._collector.now,
        )
        self._state.looked_at[rule.name] = newest.sha256
        if all(self._trust.knows(image.image_id) for image in proposed):
            self._state.current.setdefault(rule.name, proposed)
            yield Event("done before", rule.name)
            return
        if self._state.propose(proposal):
            yield Event("proposed", rule.name, proposal)
            if rule.approve is Consent.AUTOMATIC:
                self._demand_end(rule, source)
                yield from self.approve(proposal.id, by=f"rule {rule.name}")

    def _demand_end(self, rule: FollowRule, source: AptSource) -> None:
        """Refuse to approve alone from a release that is good for ever: a mirror may show one of years ago to whoever saw none before.

        Then the proposal stays open. A release that is pinned is the one that is meant.
        """
        release = self._collector.repository(source).release().release
        if release.valid_until is None and source.max_age_days is None and source.release_sha256 is None:
            raise RefusedSource(
                "source.expired",
                f"the rule {rule.name} does not approve by itself what may be years old: set max_age_days of the source {source.name}",
                expected="Valid-Until in the release file, or max_age_days",
                seen="neither",
            )

    def _supersede(self, rule: FollowRule, proposal: Proposal) -> Iterator[Event]:
        """Note what is current, and propose that what was current before is deprecated."""
        before = self._state.current.get(rule.name, ())
        self._state.current[rule.name] = proposal.images
        new = {image.image_id for image in proposal.images}
        old = tuple(image for image in before if image.image_id not in new)
        if not old or rule.supersede is Consent.NEVER:
            return
        deprecation = replace(proposal, action=Action.DEPRECATE, images=old)
        if self._state.propose(deprecation):
            yield Event("proposed", rule.name, deprecation)
            if rule.supersede is Consent.AUTOMATIC:
                yield from self.approve(deprecation.id, by=f"rule {rule.name}")

    def _collect(self, rule: FollowRule, offer: Offer) -> tuple[SourcedImage, ...]:
        request = ImageRequest(kind=RequestKind.APT, value=rule.package, roles=rule.roles, patterns=rule.patterns, source=rule.source)
        return self._collector.of_offer(offer, request)

    def _offer_of(self, proposal: Proposal) -> Offer:
        [source] = self._collector.sources.named(proposal.source)
        offer = self._collector.repository(source).offer(proposal.package, proposal.version)
        if offer.sha256 != proposal.package_sha256:
            raise RefusedSource(
                "source.unexpected",
                "the index has another package of this version now",
                expected=proposal.package_sha256,
                seen=offer.sha256,
            )
        return offer

    def _rule(self, name: str) -> FollowRule:
        rules = [rule for rule in self._collector.sources.follow if rule.name == name]
        if not rules:
            raise RefusedSource("source.unexpected", f"the rule {name} is not in the list of sources any more")
        return rules[0]
