"""``kbs-rim rim``: replay RMM operations offline, without a database or a broker."""

import hmac
from pathlib import Path

import click

from kbs_rim.cli import EXIT_OK, EXIT_REFUSED


@click.group(name="rim")
def command() -> None:
    """Replay RMM operations."""


@command.command()
@click.argument("file", type=click.Path(allow_dash=True, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the RIMs as one JSON list.")
def replay(file: Path, *, as_json: bool) -> int:
    """Print the RIM of each case in FILE (- reads stdin), in hex and in order.

    FILE is JSON: {"rmm": "1.0" or "2.0", "cases": [{"operations": [...]}]}. If a case states another RIM than its operations
    give, this is said on stderr and the exit code is 1.
    """
    import json

    from kbs_rim.limits import DEFAULT_LIMITS
    from kbs_rim.measurement.operations_file import parse_operations_file
    from kbs_rim.measurement.rmm import replay_operations

    with click.open_file(str(file), "rb") as stream:
        data = stream.read(DEFAULT_LIMITS.operations_file_bytes + 1)
    content = parse_operations_file(data)
    rims = [replay_operations(content.rmm, case.operations) for case in content.cases]
    if as_json:
        click.echo(json.dumps([rim.hex() for rim in rims], indent=2))
    else:
        for rim in rims:
            click.echo(rim.hex())
    differing = [
        number
        for number, (case, rim) in enumerate(zip(content.cases, rims, strict=True))
        if case.rim and not hmac.compare_digest(case.rim, rim)
    ]
    for number in differing:
        click.echo(f"kbs-rim: cases[{number}].rim: the file states another RIM", err=True)
    return EXIT_REFUSED if differing else EXIT_OK


@command.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def kernel(*, as_json: bool) -> int:
    """Say what computes RIMs here: the native kernel, or the pure one and why.

    A broker may be told to take another (appraisal.kernel); the metric kbs_rim_native_kernel tells which it took.
    """
    import json

    from kbs_rim.measurement.chain_kernel import NATIVE_STATE, in_use

    found = in_use()
    if as_json:
        click.echo(json.dumps({"kernel": found.name, "native": NATIVE_STATE, "implementations": dict(found.implementations)}, indent=2))
        return EXIT_OK
    click.echo(f"{found.name}: " + ", ".join(f"{hash_name} by {code}" for hash_name, code in found.implementations.items()))
    if found.name == "pure":
        click.echo(f"The native kernel is not used: {NATIVE_STATE}.", err=True)
    return EXIT_OK
