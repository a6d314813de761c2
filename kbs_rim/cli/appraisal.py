"""``kbs-rim appraisal``: read the appraisal database."""

import sys
from pathlib import Path
from typing import Any

import click

from kbs_rim.cli.admin_client import connect, connected, print_json, print_table
from kbs_rim.cli.explain_view import definition_summary, measured_images, runtime_summary, verifier_problem


@click.group(name="appraisal")
def command() -> None:
    """Read the appraisal database: who asked, what was measured, what was decided and why."""


@command.command(name="list")
@click.option("--verdict", type=click.Choice(["allowed", "refused", "unavailable"]))
@click.option("--secret", help="As the guest named it.")
@click.option("--workload")
@click.option("--finding", help="A finding id, such as rim.mismatch.")
@click.option("--image", help="An image id.")
@click.option("--instance-id", help="Platform instance id in hex.")
@click.option("--after", help="Not before this time (ISO 8601).")
@click.option("--before", help="Before this time (ISO 8601).")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@connected
def list_(limit: int, url: str, token_file: Path | None, ca_file: Path | None, *, as_json: bool, **condition: str | None) -> None:
    """List appraisals, newest first."""
    client = connect(url, token_file, ca_file)
    items = list(client.pages("/audit/v1/appraisals", "appraisals", query=condition, limit=limit))
    if as_json:
        print_json({"appraisals": items})
        return
    rows = ((item["id"], item["at"][:19], item["verdict"], item["secret"], item["workload"], ", ".join(_errors(item))) for item in items)
    print_table("", ("ticket", "time (UTC)", "verdict", "secret", "workload", "refused for"), rows)


@command.command()
@click.argument("ticket")
@connected
def show(ticket: str, url: str, token_file: Path | None, ca_file: Path | None, *, as_json: bool) -> None:
    """Show one appraisal with every finding, what was expected and what was seen."""
    answer = connect(url, token_file, ca_file).get(f"/audit/v1/appraisals/{ticket}")
    if as_json:
        print_json(answer)
        return
    record = answer["appraisal"]
    facts = record["facts"]
    overview = {
        "ticket": record["id"],
        "time": record["at"],
        "verdict": record["verdict"],
        "secret": record["secret"],
        "workload": f"{record['workload']} revision {record['workload_revision']}" if record["workload"] else "none",
        "RIM": facts.get("rim"),
        "replay": facts.get("dialect") or "no match",
        "platform": facts.get("instance_id"),
        "record": answer["digest"],
    }
    if problem := verifier_problem(facts):
        overview["verifier says"] = problem
    if derived := definition_summary(facts):
        overview["from the definition"] = derived
    if runtime := runtime_summary(facts):
        overview["REMs by logs"] = runtime
    print_table("", ("", ""), overview.items())
    rows = (
        (item["step"], item["severity"], item["id"], item["message"], item.get("expected"), item.get("seen")) for item in record["findings"]
    )
    print_table("\nFindings", ("step", "severity", "id", "what", "expected", "seen"), rows)
    if measured := measured_images(facts):
        print_table("\nMeasured into REMs", ("register", "event", "role", "what", "image"), measured)
    print_table("\nInputs", ("kind", "SHA-256"), record["inputs"].items())
    print_table(
        "\nReleases",
        ("secret", "version", "sealed to", "by"),
        ((item["secret"], item["version"], item["key_thumbprint"], item["sealing"]) for item in answer["releases"]),
    )


@command.command()
@click.argument("ticket")
@click.option(
    "--image",
    "images",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="A file that the realm loaded; if the log names it, it is compared with the nearest registered image, granule by granule.",
)
@connected
def explain(ticket: str, images: tuple[Path, ...], url: str, token_file: Path | None, ca_file: Path | None, *, as_json: bool) -> None:
    """Say why a realm was refused, what to do about it, and which registered images come close."""
    from kbs_rim.cli.explain_view import compare_images, print_explanation

    client = connect(url, token_file, ca_file)
    answer = client.get(f"/audit/v1/appraisals/{ticket}/explanation")
    answer["differences"] = compare_images(client, answer, images)
    if as_json:
        print_json(answer)
    else:
        print_explanation(answer)


@command.command()
@click.argument("sha256")
@click.option("--output", type=click.Path(path_type=Path, allow_dash=True), help="Where to write it; default stdout, if no terminal.")
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
@connected
def payload(
    sha256: str, output: Path | None, url: str, token_file: Path | None, ca_file: Path | None, *, force: bool, as_json: bool
) -> None:
    """Fetch an input of an appraisal (token, log, attestation result) by its SHA-256."""
    if output is None and sys.stdout.isatty():
        raise click.UsageError("an input is raw bytes of a guest's choice, not fit for a terminal: give --output FILE, or a pipe")
    if output is not None and str(output) != "-" and not force and (output.exists() or output.is_symlink()):
        raise click.ClickException(f"{output} exists; --force replaces it")
    data = connect(url, token_file, ca_file).get_bytes(f"/audit/v1/payloads/{sha256}")
    if output is None or str(output) == "-":
        sys.stdout.buffer.write(data)
    else:
        output.write_bytes(data)
        report = {"sha256": sha256, "bytes": len(data), "output": str(output)}
        if as_json:
            print_json(report)
        else:
            click.echo(f"{len(data)} bytes to {output}", err=True)


@command.command()
@click.option("--subject", help="Only changes of this image, workload, secret or principal.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@connected
def changes(subject: str | None, limit: int, url: str, token_file: Path | None, ca_file: Path | None, *, as_json: bool) -> None:
    """List who changed which trust, newest first."""
    items = list(connect(url, token_file, ca_file).pages("/audit/v1/changes", "changes", query={"subject": subject}, limit=limit))
    if as_json:
        print_json({"changes": items})
        return
    rows = ((item["number"], item["at"][:19], item["actor"], item["action"], item["subject"]) for item in items)
    print_table("", ("no.", "time (UTC)", "who", "did", "to"), rows)


def _errors(item: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(finding["id"] for finding in item["findings"] if finding["severity"] == "error"))
