"""Fuzz the parsers of kbs_rim: ``python -m tests.fuzz.run``; see README.md beside this file."""

import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from tests.fuzz.campaign import Campaign
    from tests.fuzz.examination import Target

_BROKEN, _USAGE = 1, 64


@click.command(context_settings={"show_default": True})
@click.argument("names", nargs=-1, metavar="[TARGET]...")
@click.option("--minutes", type=click.FloatRange(min=0.01), default=5.0, help="Wall-clock time for all targets together.")
@click.option("--seconds", type=click.FloatRange(min=0.1), help="Time for each target, instead of --minutes.")
@click.option("--engine", type=click.Choice(["auto", "atheris", "random"]), default="auto", help="auto: atheris where it is installed.")
@click.option("--seed", type=click.IntRange(min=1), default=1, help="Start of the random numbers.")
@click.option("--kept", type=click.Path(path_type=Path), default=Path(".fuzz"), help="Folder for corpora and broken inputs.")
@click.option("--fresh", is_flag=True, help="Start from the seeds alone, and keep no corpus.")
@click.option("--hang", "hang_s", type=click.FloatRange(min=0.1), default=60.0, help="Seconds after which one input counts as endless.")
@click.option("--replay", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Run one file through one target, and stop.")
@click.option("--list", "list_", is_flag=True, help="List the targets, and stop.")
@click.option("--catalogue", default="tests.fuzz.catalogue", hidden=True)
def main(
    names: tuple[str, ...],
    minutes: float,
    seconds: float | None,
    engine: str,
    seed: int,
    kept: Path,
    fresh: bool,
    hang_s: float,
    replay: Path | None,
    list_: bool,
    catalogue: str,
) -> None:
    """Fuzz the parsers; exit code 1 if one broke a promise."""
    # Nothing of kbs_rim is imported before the engine is known: atheris counts coverage in what is imported under its eyes.
    engine, remark = _engine("random" if replay or list_ else engine)
    targets = _load(catalogue, engine)
    if unknown := set(names) - set(targets):
        click.echo(f"no such target: {', '.join(sorted(unknown))}; --list names them", err=True)
        sys.exit(_USAGE)
    if list_:
        click.echo("\n".join(targets))
        return
    if replay is not None:
        _replay(targets, names, replay)
        return
    from tests.fuzz import campaign

    wanted = campaign.chosen(targets, names)
    each = seconds or 60 * minutes / len(wanted)
    click.echo(f"fuzzing {len(wanted)} targets for {each:.1f} s each; engine: {engine}{remark}; seed {seed}")
    terms = campaign.Campaign(engine=engine, seconds=each, seed=seed, kept=kept, keep_corpus=not fresh, hang_s=hang_s)
    sys.exit(_run(wanted, terms))


def _engine(wanted: str) -> tuple[str, str]:
    if wanted == "random":
        return "random", " mutation, no coverage guidance"
    from tests.fuzz.engines import atheris_reason

    reason = atheris_reason()
    if reason is None:
        return "atheris", " (libFuzzer, coverage-guided)"
    if wanted == "atheris":
        click.echo(f"atheris cannot be used: {reason}", err=True)
        sys.exit(2)
    return "random", f" mutation, no coverage guidance ({reason})"


def _load(catalogue: str, engine: str) -> "dict[str, Target]":
    def load() -> "dict[str, Target]":
        return dict(importlib.import_module(catalogue).TARGETS)

    if engine != "atheris":
        return load()
    from tests.fuzz.engines import instrumented

    # atheris names every module that it instruments, on standard error
    sys.stderr.flush()
    stderr, silence = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 2)
    try:
        return instrumented(load)
    finally:
        sys.stderr.flush()
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(silence)


def _run(wanted: "list[Target]", campaign: "Campaign") -> int:
    from tests.fuzz.campaign import HEADING, fuzz, row

    click.echo(HEADING)
    results = []
    for target in wanted:
        results.append(fuzz(target, campaign))
        click.echo(row(results[-1]))
    broken = [result for result in results if result.broken is not None]
    for result in broken:
        click.echo(f"\n{result.name}: {result.broken}\ninput: {result.reproducer}", err=True)
        click.echo(f"again: python -m tests.fuzz.run {result.name} --replay {result.reproducer}", err=True)
    inputs = sum(result.tally.inputs for result in results)
    slowest = max(results, key=lambda result: result.tally.slowest_ms)
    click.echo(
        f"{inputs} inputs, {len(results) - len(broken)} targets held, {len(broken)} broken; "
        f"slowest input: {slowest.tally.slowest_ms:.1f} ms of CPU time, {len(slowest.slowest)} bytes, {slowest.name}"
    )
    return _BROKEN if broken else 0


def _replay(targets: "dict[str, Target]", names: tuple[str, ...], file: Path) -> None:
    """Let whatever leaves the target end the program, with its traceback."""
    from tests.fuzz.examination import examine

    if len(names) != 1:
        click.echo("--replay needs exactly one target", err=True)
        sys.exit(_USAGE)
    examined = examine(targets[names[0]], file.read_bytes())
    click.echo(f"{examined.label}, {examined.cpu_ms:.1f} ms of CPU time\n{examined.outcome!r}"[:4000])


if __name__ == "__main__":
    main()
