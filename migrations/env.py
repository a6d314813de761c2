"""Alembic's entry point.

kbs_rim runs migrations on a connection of its own (``kbs_rim.adapters.db.migrate``), which holds transaction and lock. A developer who
writes a new one runs ``alembic -c migrations/alembic.ini -x url=sqlite:////path/to/a.db revision --autogenerate -m "..."``.
"""

import asyncio
from typing import Any, Literal

from alembic import context
from sqlalchemy import URL, Connection

from kbs_rim.adapters.db.column_types import JsonText, UtcDateTime
from kbs_rim.adapters.db.engine import normalise_url, postgres_engine, sqlite_engine
from kbs_rim.adapters.db.models import Base


def render(_kind: str, item: object, _context: Any) -> str | Literal[False]:
    """Write plain types into migrations: these are history, and must not change with the code."""
    if isinstance(item, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    return "sa.Text()" if isinstance(item, JsonText) else False


def run(connection: Connection) -> None:
    """Migrate inside the transaction that the connection is in; SQLite can roll back DDL because we begin transactions."""
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=connection.dialect.name == "sqlite",
        transactional_ddl=True,
        compare_type=True,
        compare_server_default=connection.dialect.name == "postgresql",
        render_item=render,
    )
    with context.begin_transaction():
        context.run_migrations()


def run_standalone(text: str) -> None:
    """Connect by ourselves, for the ``alembic`` command."""
    url = normalise_url(text)
    if url.get_backend_name() != "sqlite":
        asyncio.run(run_on_postgres(url))
        return
    engine = sqlite_engine(url, pool_size=1, create=True, foreign_keys=False)
    with engine.begin() as connection:
        run(connection)
    engine.dispose()


async def run_on_postgres(url: URL) -> None:
    """Connect through the asynchronous driver, which is the one that there is."""
    engine = postgres_engine(url, pool_size=1)
    async with engine.begin() as connection:
        await connection.run_sync(run)
    await engine.dispose()


if context.is_offline_mode():
    raise SystemExit("migrations need a connection: they look at the database")
given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    url = context.get_x_argument(as_dictionary=True).get("url")
    if not url:
        raise SystemExit("say which database: -x url=sqlite:////path/to/a.db")
    run_standalone(url)
