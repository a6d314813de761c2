"""``kbs-rim principal``: administrators and auditors, made by the local operator on the database itself.

The first administrator cannot be made over HTTP, and whoever can write to the database needs no token.
"""

import asyncio
import getpass
import os
import secrets
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kbs_rim.cli import EXIT_OK
from kbs_rim.cli.db import database_options, database_url_of

if TYPE_CHECKING:
    from kbs_rim.ports import Principal
    from kbs_rim.services.principals import Principals

_T = TypeVar("_T")


@click.group(name="principal")
def command() -> None:
    """Create and revoke administrators and auditors."""


@command.command()
@click.argument("name")
@click.option("--role", type=click.Choice(["admin", "auditor"]), required=True, help="An admin changes trust; an auditor only reads.")
@click.option(
    "--expires", "expires_days", type=click.IntRange(1, 3650), metavar="DAYS", help="Days that the token lives; default: for ever."
)
@database_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def add(name: str, role: str, expires_days: int | None, database_url: str | None, config: Path | None, *, as_json: bool) -> int:
    """Create a principal and print its bearer token: once, here, and never again."""
    from kbs_rim.cli.admin_client import print_json
    from kbs_rim.ports import PrincipalRole

    lifetime = None if expires_days is None else timedelta(days=expires_days)
    work = _with_principals(
        database_url_of(database_url, config),
        lambda principals: principals.add(name, PrincipalRole(role), lifetime=lifetime, actor=_actor()),
    )
    principal, token = asyncio.run(work)
    if as_json:
        print_json({**_document(principal), "token": token})
        return EXIT_OK
    click.echo(f"{principal.role.value} {principal.name}, {_lifetime(principal)}; the token is shown only now:", err=True)
    click.echo(token)
    return EXIT_OK


@command.command(name="list")
@database_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(database_url: str | None, config: Path | None, *, as_json: bool) -> int:
    """List principals, live and revoked. Tokens are not known to anybody but their owners."""
    from kbs_rim.cli.admin_client import print_json, print_table

    principals = asyncio.run(_with_principals(database_url_of(database_url, config), lambda service: service.list_all()))
    if as_json:
        print_json({"principals": [_document(principal) for principal in principals]})
        return EXIT_OK
    rows = ((item.name, item.role.value, item.created_at.isoformat(timespec="seconds"), _lifetime(item)) for item in principals)
    print_table("", ("name", "role", "created", "state"), rows)
    return EXIT_OK


@command.command()
@click.argument("name")
@database_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def revoke(name: str, database_url: str | None, config: Path | None, *, as_json: bool) -> int:
    """Make a principal's token useless, at once and on every replica. The name is never used again."""
    from kbs_rim.cli.admin_client import print_json

    work = _with_principals(database_url_of(database_url, config), lambda principals: principals.revoke(name, actor=_actor()))
    principal = asyncio.run(work)
    if as_json:
        print_json(_document(principal))
    else:
        click.echo(f"{principal.name} is revoked")
    return EXIT_OK


class _SystemClock:
    """Implements ``ports.Clock``; the one in ``wiring`` would import the whole service."""

    def now(self) -> datetime:
        return datetime.now(UTC)


async def _with_principals(url: str, work: "Callable[[Principals], Awaitable[_T]]") -> _T:
    """Open the database, check its schema, do ``work`` and close it again."""
    from kbs_rim.adapters.db import open_store
    from kbs_rim.adapters.db.naming import naming_database
    from kbs_rim.services.principals import Principals

    store = open_store(url, pool_size=1)
    try:
        with naming_database(url):
            await store.health.check_store()
        return await work(Principals(store=store.principals, clock=_SystemClock(), entropy=secrets.token_bytes))
    finally:
        await store.close()


def _actor() -> str:
    """Name the operator in the record of changes; a container's user may have no name."""
    try:
        return f"local/{getpass.getuser()}"
    except (KeyError, OSError):
        return f"local/uid-{os.getuid()}"


def _lifetime(principal: "Principal") -> str:
    if principal.revoked:
        return "revoked"
    if principal.expires_at is None:
        return "never expires"
    tense = "expired" if principal.expires_at <= datetime.now(UTC) else "expires"
    return f"{tense} {principal.expires_at.isoformat(timespec='seconds')}"


def _document(principal: "Principal") -> dict[str, Any]:
    return {
        "name": principal.name,
        "role": principal.role.value,
        "created_at": principal.created_at.isoformat(),
        "expires_at": principal.expires_at.isoformat() if principal.expires_at else None,
        "revoked": principal.revoked,
    }
