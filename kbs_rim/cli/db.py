"""``kbs-rim db``: create and migrate the database. Works on the database itself, where the broker's configuration is."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from kbs_rim.cli import EXIT_OK, EXIT_REFUSED

_F = TypeVar("_F", bound=Callable[..., Any])


def database_options(command: _F) -> _F:
    """Add ``--database-url`` and ``--config``; the command gets ``database_url`` and ``config`` for ``database_url_of``."""
    options = (
        click.option(
            "--database-url",
            "--url",
            "database_url",
            help="Database, instead of the configured one. Arguments are visible to every process: no password here.",
        ),
        click.option(
            "-c",
            "--config",
            type=click.Path(path_type=Path, dir_okay=False),
            help="Configuration file [default: $KBS_RIM_CONFIG, then /etc/kbs_rim/kbs_rim.toml].",
        ),
    )
    for option in options:
        command = option(command)
    return command


def database_url_of(database_url: str | None, config: Path | None) -> str:
    """Return the URL to connect with; raise ``UsageError`` if both are given, ``ConfigurationError`` as ``load_settings`` does."""
    if database_url is not None:
        if config is not None:
            raise click.UsageError("give --database-url or --config, not both")
        return database_url
    from kbs_rim.config import load_settings

    return load_settings(config).settings.database.resolved_url().get_secret_value()


@click.group(name="db")
def command() -> None:
    """Create and migrate the database."""


@command.command()
@database_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def upgrade(database_url: str | None, config: Path | None, *, as_json: bool) -> int:
    """Bring the database to the newest schema, whole or not at all; a new SQLite database is made.

    Several replicas may run this at once. Make a backup first: there is no way back.
    """
    from kbs_rim.adapters.db import migrate
    from kbs_rim.adapters.db.naming import naming_database
    from kbs_rim.cli.admin_client import print_json

    url = database_url_of(database_url, config)
    with naming_database(url, upgrading=True):
        done = asyncio.run(migrate.upgrade(url))
    if as_json:
        print_json({"before": done.before, "after": done.after})
    elif done.before == done.after:
        click.echo(f"schema {done.after}, nothing to do")
    else:
        click.echo(f"schema {done.after}, before: {done.before or 'none'}")
    return EXIT_OK


@command.command()
@database_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def current(database_url: str | None, config: Path | None, *, as_json: bool) -> int:
    """Print the schema of the database; exit 0 if this program can serve it, 1 if not."""
    from kbs_rim.adapters.db import migrate
    from kbs_rim.adapters.db.models import SCHEMA_VERSION
    from kbs_rim.adapters.db.naming import naming_database
    from kbs_rim.cli.admin_client import print_json

    url = database_url_of(database_url, config)
    with naming_database(url):
        version = asyncio.run(migrate.current(url))
    if as_json:
        print_json({"schema": version, "needed": SCHEMA_VERSION})
    else:
        click.echo(version or "none")
    if version == SCHEMA_VERSION:
        return EXIT_OK
    click.echo(f"kbs-rim: this program needs schema {SCHEMA_VERSION}: run kbs-rim db upgrade", err=True)
    return EXIT_REFUSED
