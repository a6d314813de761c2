"""Whether the database can be used."""

from typing import Protocol


class Health(Protocol):
    """Answers whether the database can be used."""

    async def check_store(self) -> None:
        """Raise ``StoreUnavailable`` if the database does not answer or is at another schema version."""
        ...
