"""What ``kbs-rim workload from`` shows before anything is registered."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import click

from kbs_rim.cli.admin_client import print_table

if TYPE_CHECKING:
    from kbs_rim.cli.workload_from_images import ChosenImage
    from kbs_rim.workload_sources.review import Review


def print_review(name: str, review: "Review", images: Sequence["ChosenImage"]) -> None:
    """Print the images, each rule with its meaning, the RIMs to compare with, what is open, and warnings."""
    print_table(
        f"Workload {name}", ("rule", "value", "a realm passes only if"), ((item.key, item.value, item.meaning) for item in review.rules)
    )
    print_images(images)
    if review.rims:
        click.echo("")
        rows = ((item.host, item.rmm, item.hash_algorithm, item.page_size, item.rim.hex()) for item in review.rims)
        print_table("RIMs, to be compared with a realm's token", ("host", "RMM", "hash", "pages", "RIM"), rows)
    print_list("Left open by the definition", review.left_open)
    print_list("Warnings", review.warnings)


def print_images(images: Sequence["ChosenImage"]) -> None:
    """Print what is loaded, and what the broker knows of it."""
    click.echo("")
    rows = ((item.role, item.name, item.measurements.size, item.standing, item.measurements.image_id) for item in images)
    print_table("Images", ("role", "file", "bytes", "in the registry", "id"), rows)


def print_list(title: str, lines: Iterable[str]) -> None:
    """Print a titled list, nothing if it is empty."""
    lines = tuple(lines)
    if lines:
        click.echo(f"\n{title}")
    for line in lines:
        click.echo(f"- {line}")
