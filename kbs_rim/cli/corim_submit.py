"""``kbs-rim corim submit``: hand a CoRIM to a Veraison provisioning service."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from kbs_rim.cli import EXIT_OK
from kbs_rim.cli.corim_files import IN, read

_F = TypeVar("_F", bound=Callable[..., Any])


def provisioning_options(command: _F) -> _F:
    """Add the options that say how to reach a provisioning service; ``submit_bytes`` takes them."""
    options = (
        click.option("--ca-file", type=IN, help="Certificate authorities (PEM) to trust instead of the system's."),
        click.option("--authorization-file", type=IN, help="File with the whole Authorization header, such as `Bearer ...`."),
        click.option(
            "--provisioning-token-file", type=IN, help="File with a bearer token (or KBS_RIM_PROVISIONING_TOKEN in the environment)."
        ),
        click.option("--deadline", type=click.FloatRange(1, 3600), default=120, show_default=True, help="Seconds, for all of it."),
        click.option("--attempts", type=click.IntRange(1, 20), default=5, show_default=True, help="How often to send it at most."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@click.argument("file", type=IN)
@click.option("--to", "url", required=True, metavar="URL", help="The service, such as https://veraison.example:9443.")
@provisioning_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def submit(
    file: Path,
    url: str,
    ca_file: Path | None,
    authorization_file: Path | None,
    provisioning_token_file: Path | None,
    deadline: float,
    attempts: int,
    *,
    as_json: bool,
) -> int:
    """Submit FILE, a CoRIM of realms or platforms, and wait until the service has judged it.

    Exit code 1 says that the service refused it, with its words; 2 that no answer came. Veraison answers 200 to both, so only
    the status in the answer counts.
    """
    from kbs_rim.limits import DEFAULT_LIMITS

    authorization = _authorization(authorization_file, provisioning_token_file)
    data = read(file, DEFAULT_LIMITS.endorsement_bytes)
    report = submit_bytes(data, url, ca_file, authorization, deadline, attempts)
    click.echo(json.dumps(report, indent=2) if as_json else f"accepted: {report['id']}, {report['media_type']}")
    return EXIT_OK


def _authorization(header_file: Path | None, token_file: Path | None) -> str | None:
    if header_file is not None and token_file is not None:
        raise click.UsageError("--authorization-file and --provisioning-token-file say the same: give one")
    if header_file is not None:
        return _line(header_file)
    token = _line(token_file) if token_file is not None else os.environ.get("KBS_RIM_PROVISIONING_TOKEN", "").strip()
    return f"Bearer {token}" if token else None


def _line(path: Path) -> str:
    from kbs_rim.errors import ConfigurationError

    text = read(path, 1 << 16).decode("utf-8", "replace").strip()
    if not text or not text.isascii() or not text.isprintable():
        raise ConfigurationError(f"{path} does not hold one line of ASCII text")
    return text


def submit_bytes(data: bytes, url: str, ca_file: Path | None, authorization: str | None, deadline: float, attempts: int) -> dict[str, Any]:
    """Submit an encoded CoRIM and return what is to be said about it; messages go to stderr. Errors as for ``submit_corim``."""
    import asyncio

    from kbs_rim.adapters.verifiers.veraison_provisioning import ProvisioningSettings, media_type_of, submit_corim
    from kbs_rim.appraisal.corim import read_corim
    from kbs_rim.appraisal.corim_document import Profile
    from kbs_rim.errors import InvalidDocument

    found = read_corim(data)
    if found.corim.profile is Profile.IMAGE:
        raise InvalidDocument("endorsement.profile", "the CoRIM describes images, which no verifier asks for")
    settings = ProvisioningSettings(
        url=url, ca_file=ca_file, authorization=authorization, deadline_s=deadline, request_s=min(30.0, deadline), attempts=attempts
    )
    media_type = media_type_of(found.corim.profile.value, signed=found.signature is not None)
    outcome = asyncio.run(submit_corim(data, media_type, settings, tell=lambda text: click.echo(f"kbs-rim: {text}", err=True)))
    if outcome.note:
        click.echo(f"kbs-rim: {outcome.note}", err=True)
    return {
        "id": str(found.corim.id),
        "media_type": media_type,
        "status": "success",
        "session": outcome.session,
        "expiry": outcome.expiry,
        "attempts": outcome.attempts,
        "note": outcome.note,
    }
