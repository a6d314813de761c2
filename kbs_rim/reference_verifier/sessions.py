"""Challenge-response sessions: bounded in number and in age, in the memory of one process."""

import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid4

from kbs_rim.evidence import base64url
from kbs_rim.reference_verifier.faults import NonceStyle


class SessionStatus(StrEnum):
    """The life of a session."""

    WAITING = "waiting"
    PROCESSING = "processing"
    COMPLETE = "complete"
    FAILED = "failed"


@dataclass(slots=True)
class Session:
    """One session. ``expires_at`` (shown) stays; ``dropped_at`` (kept until) moves with each submission, as in Veraison."""

    nonce: bytes
    expires_at: float
    dropped_at: float
    status: SessionStatus = SessionStatus.WAITING
    evidence: tuple[str, bytes] | None = None
    result: str | None = None
    polls_left: int = 0
    id: UUID = field(default_factory=uuid4)

    def to_document(self, style: NonceStyle, accept: list[str]) -> dict[str, Any]:
        """The session as JSON. The evidence is echoed, the result is there once the session is complete."""
        document: dict[str, Any] = {
            "status": self.status.value,
            "nonce": spell_nonce(self.nonce, style),
            "expiry": _rfc3339(self.expires_at),
            "accept": accept,
        }
        if self.evidence is not None:
            media_type, value = self.evidence
            document["evidence"] = {"type": media_type, "value": base64.b64encode(value).decode("ascii")}
        if self.status is SessionStatus.COMPLETE and self.result is not None:
            document["result"] = self.result
        return document


class SessionStore:
    """Sessions by id. ``now`` returns seconds since the epoch."""

    def __init__(self, *, ttl_s: float, maximum: int, now: Callable[[], float]) -> None:
        self._sessions: dict[UUID, Session] = {}
        self._ttl_s = ttl_s
        self._maximum = maximum
        self._now = now

    def open(self, nonce: bytes) -> Session | None:
        """Make a session, or return None if there are as many as may be."""
        self._drop_expired()
        if len(self._sessions) >= self._maximum:
            return None
        until = self._now() + self._ttl_s
        session = Session(nonce, until, until)
        self._sessions[session.id] = session
        return session

    def find(self, id_: UUID) -> Session | None:
        """Return a live session."""
        session = self._sessions.get(id_)
        return session if session is not None and self._now() < session.dropped_at else None

    def renew(self, session: Session) -> None:
        """Keep the session for another lifetime."""
        session.dropped_at = self._now() + self._ttl_s

    def drop(self, id_: UUID) -> None:
        """Forget a session, known or not."""
        self._sessions.pop(id_, None)

    def __len__(self) -> int:
        return len(self._sessions)

    def _drop_expired(self) -> None:
        now = self._now()
        for id_ in [id_ for id_, session in self._sessions.items() if session.dropped_at <= now]:
            del self._sessions[id_]


def spell_nonce(nonce: bytes, style: NonceStyle) -> str:
    """Write a nonce as the session JSON of one generation of Veraison does."""
    if style is NonceStyle.RELEASE:
        return base64.b64encode(nonce).decode("ascii")
    return base64.urlsafe_b64encode(nonce).decode("ascii") if style is NonceStyle.MIDDLE else base64url.encode(nonce)


def read_nonce(text: str, style: NonceStyle) -> bytes | None:
    """Read the query's nonce: base64url, padded; HEAD takes it without padding too. None if it is neither."""
    if style is NonceStyle.HEAD:
        text = text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4)
    try:
        nonce = base64.urlsafe_b64decode(text.encode("ascii"))
    except ValueError:
        return None
    return nonce if base64.urlsafe_b64encode(nonce).decode("ascii") == text else None


def _rfc3339(seconds: float) -> str:
    """RFC 3339 in local time with nine fractional digits, as Go writes it."""
    moment = datetime.fromtimestamp(seconds, UTC).astimezone()
    offset = moment.strftime("%z")
    return f"{moment.strftime('%Y-%m-%dT%H:%M:%S.%f')}000{offset[:3]}:{offset[3:]}"
