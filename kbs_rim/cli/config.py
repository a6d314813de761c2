"""``kbs-rim config``: what is in force, where it came from, and whether a broker could serve with it."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from kbs_rim.cli import EXIT_FAILED, EXIT_OK


def configuration_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--config PATH`` to a command as its argument ``config``: a ``Path`` or None."""
    return click.option(
        "--config",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Configuration file [default: $KBS_RIM_CONFIG, then /etc/kbs_rim/kbs_rim.toml].",
    )(function)


@click.group("config")
def command() -> None:
    """Show and check the configuration."""


@command.command()
@configuration_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON: values, origins, files and digest.")
def show(config: Path | None, as_json: bool) -> int:
    """Print every effective value, secrets masked, with its origin."""
    from kbs_rim.config import load_settings

    loaded = load_settings(config)
    document, digest = loaded.settings.document(), loaded.settings.digest()
    if as_json:
        content = {"settings": document, "origins": dict(loaded.origins), "files": [str(file) for file in loaded.files], "digest": digest}
        click.echo(json.dumps(content, indent=2))
        return EXIT_OK
    rows = list(_rows(document))
    width = max(len(f"{key} = {value}") for key, value in rows if len(value) < 60)
    for key, value in rows:
        click.echo(f"{f'{key} = {value}':<{width}}  # {loaded.origins.get(key, 'default')}")
    click.echo(f"digest sha256:{digest}", err=True)
    return EXIT_OK


@command.command()
@configuration_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON: digest, problems and warnings.")
def check(config: Path | None, as_json: bool) -> int:
    """Tell whether a broker could serve with this configuration; exit 0 or 2.

    Every file that `kbs-rim serve` opens is opened and read. Nothing is connected to: `kbs-rim db current` asks the database, and
    /readyz of a running broker the verifier.
    """
    from kbs_rim.config import load_settings
    from kbs_rim.wiring import file_problems

    settings = load_settings(config).settings
    problems = settings.serving_problems() + file_problems(settings)
    if as_json:
        click.echo(json.dumps({"digest": settings.digest(), "problems": problems, "warnings": settings.warnings()}, indent=2))
    else:
        for problem in problems:
            click.echo(f"problem: {problem}", err=True)
        for warning in settings.warnings():
            click.echo(f"warning: {warning}", err=True)
        if not problems:
            click.echo("kbs-rim: nothing here keeps a broker from serving", err=True)
        click.echo(f"digest sha256:{settings.digest()}")
    return EXIT_FAILED if problems else EXIT_OK


def _rows(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in document.items():
        if isinstance(value, dict):
            yield from _rows(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", "(unset)" if value is None else json.dumps(value, ensure_ascii=False)
