"""The ``kbs-rim`` command: one file per noun, loaded when it is used.

Results go to stdout, messages to stderr. Exit codes: 0 ok, 1 refused or invalid, 2 could not do it, 64 usage.
"""

import importlib
import sys
from collections.abc import Sequence
from typing import Any

import click

from kbs_rim import __version__
from kbs_rim.errors import KbsRimError, TheirFault

EXIT_OK, EXIT_REFUSED, EXIT_FAILED, EXIT_USAGE = 0, 1, 2, 64

_NOUNS = {
    "appraisal": "Read the appraisal database.",
    "config": "Show and check the configuration.",
    "corim": "Make, read, sign and submit CoRIMs: reference values for other verifiers.",
    "db": "Create and migrate the database.",
    "dtb": "Make, show and compare device trees, and judge them by rules.",
    "guest": "Ask for a secret, as a realm does.",
    "image": "Hash, register and revoke trusted images.",
    "log": "Read measurement logs and recompute RIMs from them.",
    "measure": "Compute RIM and REMs from a VM's command line.",
    "principal": "Create and revoke administrators and auditors.",
    "rim": "Replay RMM operations.",
    "secret": "Store, bind and revoke secrets.",
    "serve": "Run the broker.",
    "simulate": "Simulate a realm and its host.",
    "token": "Show and check CCA tokens.",
    "verifier": "Run the reference verifier.",
    "workload": "Register and retire workloads.",
}


class _LazyGroup(click.Group):
    """Imports a noun's module only when that noun is used: importing everything costs half a second."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_NOUNS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _NOUNS:
            return None
        command = importlib.import_module(f"kbs_rim.cli.{cmd_name}").command
        return command if isinstance(command, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(sorted(_NOUNS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="kbs-rim")
def root() -> None:
    """kbs_rim: a key broker for Arm CCA realms."""


def main(arguments: Sequence[str] | None = None) -> Any:
    """Run the command and exit with one of the four codes; every error is one line on stderr."""
    try:
        code = root.main(args=None if arguments is None else list(arguments), prog_name="kbs-rim", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else EXIT_OK)
    except click.UsageError as error:
        left_out = isinstance(error, click.MissingParameter)
        if isinstance(error, click.BadParameter) and not left_out and error.param is not None and isinstance(error.param.type, click.Path):
            # A file that is not there is no matter of usage: every command says so in the same way.
            click.echo(f"kbs-rim: {error.message}", err=True)
            sys.exit(EXIT_FAILED)
        error.show()
        sys.exit(EXIT_USAGE)
    except click.ClickException as error:
        click.echo(f"kbs-rim: {error.format_message()}", err=True)
        sys.exit(EXIT_FAILED)
    except click.Abort:
        click.echo("kbs-rim: interrupted", err=True)
        sys.exit(130)
    except TheirFault as error:
        click.echo(f"kbs-rim: {error.finding_id}: {error}", err=True)
        sys.exit(EXIT_REFUSED)
    except KbsRimError as error:
        click.echo(f"kbs-rim: {error}", err=True)
        sys.exit(EXIT_FAILED)
    except OSError as error:
        about = f"{error.filename}: " if error.filename else ""
        click.echo(f"kbs-rim: {about}{error.strerror or error}", err=True)
        sys.exit(EXIT_FAILED)
