"""Errors of a database for whoever starts a program on it: which database, and what to do. Never its password, nor its user."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from kbs_rim.errors import StoreUnavailable

_UPGRADE = "kbs-rim db upgrade"
_NO_TABLES = ("no such table", "42P01", "schema None")
"""What an empty database answers: SQLite, PostgreSQL (undefined_table), and our own check."""


@contextmanager
def naming_database(url: str, *, upgrading: bool = False) -> Iterator[None]:
    """Put the name of the database at ``url`` into every ``StoreUnavailable`` of the block, and a remedy if one is known.

    ``upgrading``: the block is the remedy itself.
    """
    try:
        yield
    except StoreUnavailable as error:
        where, remedy = _name_of(url), None if upgrading else _remedy(url, str(error))
        raise StoreUnavailable(f"{where}: {remedy or error}") from error


def _name_of(url: str) -> str:
    try:
        parsed = make_url(url)
    except ArgumentError:
        return "database.url"
    if parsed.get_backend_name() == "sqlite":
        return str(Path(parsed.database or "").absolute())
    port = f":{parsed.port}" if parsed.port else ""
    return f"{parsed.get_backend_name()}://{parsed.host or ''}{port}/{parsed.database or ''}"


def _remedy(url: str, message: str) -> str | None:
    path = Path(_name_of(url)) if url.startswith("sqlite") else None
    if path is not None and not path.exists():
        parent = "" if path.parent.is_dir() else f" (nor the directory {path.parent})"
        return f"there is no such database{parent}; `{_UPGRADE}` makes it"
    if path is not None and not path.is_file():
        return "this is no file"
    if any(sign in message for sign in _NO_TABLES):
        return f"this database is empty, or not one of kbs_rim; `{_UPGRADE}` furnishes it"
    return None
