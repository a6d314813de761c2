"""Administrators and auditors: bearer tokens that are shown once and stored as a hash."""

import hashlib
import re
from collections.abc import Callable
from datetime import timedelta

from kbs_rim.errors import InvalidDocument
from kbs_rim.evidence import base64url
from kbs_rim.ledger.records import ChangeRecord
from kbs_rim.ports import Clock, Principal, PrincipalRole, PrincipalStore

TOKEN_PREFIX = "kbsrim_"  # noqa: S105 - a public prefix, so that leaked tokens are found by scanners
_TOKEN_SIZE = 32
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_MAX_LIFETIME = timedelta(days=3650)


class Principals:
    """Who may use the internal listener."""

    def __init__(self, *, store: PrincipalStore, clock: Clock, entropy: Callable[[int], bytes]) -> None:
        """``entropy`` gives the tokens: 256 bits each, so a plain hash is enough to store them."""
        self._store, self._clock, self._entropy = store, clock, entropy

    async def add(self, name: str, role: PrincipalRole, *, lifetime: timedelta | None, actor: str) -> tuple[Principal, str]:
        """Create a principal; return it and its token, which nobody can see again. Raises ``InvalidDocument``, ``Conflict``."""
        if not _NAME.fullmatch(name):
            raise InvalidDocument("document.principal", "name must be 1 to 64 letters, digits, dots, dashes, underscores or @")
        if lifetime is not None and not timedelta(0) < lifetime <= _MAX_LIFETIME:
            raise InvalidDocument("document.principal", f"a token lives for up to {_MAX_LIFETIME.days} days")
        now = self._clock.now()
        principal = Principal(name=name, role=role, created_at=now, expires_at=now + lifetime if lifetime else None)
        token = TOKEN_PREFIX + base64url.encode(self._entropy(_TOKEN_SIZE))
        await self._store.add_principal(principal, _digest(token), self._change(actor, "principal.add", name, role=role.value))
        return principal, token

    async def authenticate(self, token: str) -> Principal | None:
        """Return the owner of a live token, or None."""
        if not token.startswith(TOKEN_PREFIX) or not token.isascii():
            return None
        return await self._store.find_principal(_digest(token), self._clock.now())

    async def list_all(self) -> list[Principal]:
        """Return all, ordered by name."""
        return await self._store.list_principals()

    async def revoke(self, name: str, *, actor: str) -> Principal:
        """Make the token useless. Raises ``NotFound``."""
        return await self._store.revoke_principal(name, self._change(actor, "principal.revoke", name))

    def _change(self, actor: str, action: str, subject: str, **detail: str) -> ChangeRecord:
        return ChangeRecord(at=self._clock.now(), actor=actor, action=action, subject=subject, detail=detail)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
