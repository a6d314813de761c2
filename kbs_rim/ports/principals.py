"""Administrators and auditors."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from kbs_rim.ledger.records import ChangeRecord


class PrincipalRole(StrEnum):
    """An auditor reads everything but secrets and changes nothing; an admin changes trust and cannot read a secret's value."""

    ADMIN = "admin"
    AUDITOR = "auditor"


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Somebody with a bearer token. The token itself is never stored, only its SHA-256."""

    name: str
    role: PrincipalRole
    created_at: datetime
    expires_at: datetime | None = None
    revoked: bool = False


class PrincipalStore(Protocol):
    """Administrators and auditors."""

    async def add_principal(self, principal: Principal, token_sha256: bytes, change: ChangeRecord) -> None:
        """Raise ``Conflict`` if the name is taken."""
        ...

    async def find_principal(self, token_sha256: bytes, at: datetime) -> Principal | None:
        """Return the owner of a live token, or None."""
        ...

    async def list_principals(self) -> list[Principal]:
        """Return all, ordered by name."""
        ...

    async def revoke_principal(self, name: str, change: ChangeRecord) -> Principal:
        """Raise ``NotFound``."""
        ...
