"""What following sources has seen and proposed so far: a JSON file of the administrator's, written whole or not at all.

Whoever can write the file can hide proposals or bring back an old state of a mirror, but can make nothing trusted: an approval
reads source, signature and package again, and registers what it then finds only if it is what was proposed.
"""

import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import Any

from kbs_rim.errors import InvalidDocument, TheirFault
from kbs_rim.evidence import strict_json
from kbs_rim.image_sources.source_limits import DEFAULT_SOURCE_LIMITS

_VERSION = 1
_ID = re.compile(r"[0-9a-f]{12}")
_ITEMS = 1_000_000


class Action(StrEnum):
    """What is proposed."""

    REGISTER = "register"
    DEPRECATE = "deprecate"


@dataclass(frozen=True, slots=True)
class ProposedImage:
    """An image by its id, with the name it has or is to have."""

    image_id: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """Something that an administrator may approve. ``package_sha256`` is of the package that the signed index named."""

    action: Action
    rule: str
    source: str
    package: str
    version: str
    package_sha256: str
    images: tuple[ProposedImage, ...]
    proposed_at: datetime

    @property
    def id(self) -> str:
        """A short name that follows from what is proposed, whenever it is."""
        ids = sorted(image.image_id for image in self.images)
        words = [self.action.value, self.rule, self.source, self.package, self.version, self.package_sha256, *ids]
        return sha256(json.dumps(words).encode()).hexdigest()[:12]

    def to_document(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "id": self.id,
            "action": self.action.value,
            "rule": self.rule,
            "source": self.source,
            "package": self.package,
            "version": self.version,
            "package_sha256": self.package_sha256,
            "images": [{"id": image.image_id, "name": image.name} for image in self.images],
            "proposed_at": self.proposed_at.isoformat(),
        }

    @classmethod
    def from_document(cls, value: Any) -> "Proposal":
        """Read it back. Raises ``KeyError``, ``TypeError``, ``ValueError``."""
        texts = {name: _text(value[name]) for name in ("rule", "source", "package", "version", "package_sha256")}
        return cls(
            action=Action(value["action"]),
            images=tuple(ProposedImage(_text(item["id"]), _text(item["name"])) for item in value["images"]),
            proposed_at=_time(value["proposed_at"]),
            **texts,
        )


@dataclass(slots=True)
class FollowState:
    """``newest`` release date by source; ``settled`` ids of proposals that were approved or rejected; ``current`` images by rule."""

    newest: dict[str, datetime] = field(default_factory=dict)
    proposals: dict[str, Proposal] = field(default_factory=dict)
    settled: dict[str, str] = field(default_factory=dict)
    looked_at: dict[str, str] = field(default_factory=dict)
    """Rule and digest of the newest package that it was carried out for, so that nothing is fetched twice."""
    current: dict[str, tuple[ProposedImage, ...]] = field(default_factory=dict)

    def propose(self, proposal: Proposal) -> bool:
        """Add a proposal; return False if it was made or settled before."""
        if proposal.id in self.proposals or proposal.id in self.settled:
            return False
        self.proposals[proposal.id] = proposal
        return True

    def settle(self, proposal_id: str, how: str) -> Proposal:
        """Take a proposal away for good. Raises ``InvalidDocument`` for one that there is not."""
        self.find(proposal_id)
        self.settled[proposal_id] = how
        return self.proposals.pop(proposal_id)

    def find(self, proposal_id: str) -> Proposal:
        """Raises ``InvalidDocument`` (``document.sources``)."""
        if proposal_id not in self.proposals:
            how = self.settled.get(proposal_id)
            seen = f"it was {how}" if how else None
            raise InvalidDocument("document.sources", f"there is no open proposal {proposal_id[:40]}", seen=seen)
        return self.proposals[proposal_id]


def load_state(path: Path) -> FollowState:
    """Read the file; an empty state if there is none. Raises ``InvalidDocument`` (``document.sources``), ``OSError``."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return FollowState()
    return parse_state(data)


def parse_state(data: bytes) -> FollowState:
    """Read the content of the file. Raises ``InvalidDocument`` (``document.sources``)."""
    try:
        document = strict_json.decode_object(data, max_bytes=16 * DEFAULT_SOURCE_LIMITS.document_bytes, max_items=_ITEMS)
        if document["version"] != _VERSION:
            raise ValueError("it is of another version")
        proposals = [Proposal.from_document(item) for item in _list(document["proposals"])]
        return FollowState(
            newest={name: _time(text) for name, text in _table(document["newest"]).items()},
            proposals={proposal.id: proposal for proposal in proposals},
            settled={name: _text(how) for name, how in _table(document["settled"]).items() if _ID.fullmatch(name)},
            looked_at={name: _text(how) for name, how in _table(document["looked_at"]).items()},
            current={
                name: tuple(ProposedImage(_text(item["id"]), _text(item["name"])) for item in _list(items))
                for name, items in _table(document["current"]).items()
            },
        )
    except TheirFault as error:
        raise InvalidDocument("document.sources", f"the file of proposals is damaged: {error.message}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidDocument("document.sources", f"the file of proposals is damaged: {error}") from None


def save_state(path: Path, state: FollowState) -> None:
    """Write the file, readable by its owner only. Raises ``OSError``."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.NamedTemporaryFile("wb", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        file.write(state_bytes(state))
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).replace(path)


def state_bytes(state: FollowState) -> bytes:
    """Return the content of the file; ``parse_state`` reads it back."""
    document: Mapping[str, Any] = {
        "version": _VERSION,
        "newest": {name: moment.isoformat() for name, moment in state.newest.items()},
        "proposals": [proposal.to_document() for proposal in state.proposals.values()],
        "settled": state.settled,
        "looked_at": state.looked_at,
        "current": {rule: [{"id": image.image_id, "name": image.name} for image in images] for rule, images in state.current.items()},
    }
    return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError("a text is missing or not printable")
    return value


def _time(value: Any) -> datetime:
    moment = datetime.fromisoformat(_text(value))
    if moment.tzinfo is None:
        raise ValueError("a time has no zone")
    return moment


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError("a list is missing")
    return value


def _table(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("a table is missing")
    return value
