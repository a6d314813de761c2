"""``kbs-rim image``: hash images on the administrator's side; the commands that need a broker are in ``image_registry``."""

import os
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from kbs_rim.cli import EXIT_OK, image_add, image_follow, image_registry

if TYPE_CHECKING:
    from kbs_rim.limits import Limits
    from kbs_rim.measurement.image import ImageMeasurements, Work

_CHUNK_BYTES = 1 << 20
_PIPE_COLUMNS = 1000


@click.group(name="image")
def command() -> None:
    """Hash, register and revoke trusted images."""


for _registry_command in (
    image_add.add,
    image_follow.follow,
    image_follow.approve,
    image_follow.reject,
    image_registry.list_,
    image_registry.show,
    image_registry.deprecate,
    image_registry.activate,
    image_registry.revoke,
):
    command.add_command(_registry_command)


@command.command(name="hash")
@click.argument("file", type=click.Path(allow_dash=True, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--granules", is_flag=True, help="With --json: include the granule digests, base64.")
def hash_(file: Path, *, as_json: bool, granules: bool) -> int:
    """Measure FILE (- reads stdin) as a VMM loads it: what it is, its digests, its id, how it may lie in memory.

    A gzip'd kernel is measured unpacked, everything else as it is. Of PE files, UKIs and firmware it is shown as well what
    firmware and boot loaders measure of them. Nothing is sent anywhere.
    """
    from kbs_rim.cli.admin_client import print_json
    from kbs_rim.cli.image_collect import say_speed
    from kbs_rim.image_sources.shared_work import SharedWork

    if granules and not as_json:
        raise click.UsageError("--granules needs --json")
    with SharedWork() as work:
        started = time.perf_counter()
        measured = measure_file(file, do=work)
        say_speed(measured.file_size, time.perf_counter() - started, "hashed")
    if as_json:
        print_json(_description(file, measured, granules=granules))
    else:
        _print_overview(_overview(file, measured))
    return EXIT_OK


def measure_file(
    file: Path, limits: "Limits | None" = None, *, do: "Callable[[Sequence[Work]], None] | None" = None
) -> "ImageMeasurements":
    """Measure a file in chunks; what has no length beforehand (a pipe, stdin) is read into memory, up to the limit.

    ``do`` is as for ``kbs_rim.measurement.image.measure_stream``. Raises ``OSError``, and ``MalformedEvidence`` as that does.
    """
    from kbs_rim.limits import DEFAULT_LIMITS
    from kbs_rim.measurement.image import in_turn, measure_image, measure_stream

    limits = limits or DEFAULT_LIMITS
    with click.open_file(str(file), "rb") as stream:
        status = os.fstat(stream.fileno()) if str(file) != "-" else None
        if status is not None and stat.S_ISREG(status.st_mode):
            return measure_stream(_chunks(stream), status.st_size, limits, do or in_turn)
        return measure_image(stream.read(limits.image_bytes + 1), limits)


def _chunks(stream: IO[bytes]) -> Iterator[bytes]:
    while chunk := stream.read(_CHUNK_BYTES):
        yield chunk


def _description(file: Path, measured: "ImageMeasurements", *, granules: bool) -> dict[str, Any]:
    document = measured.to_document()
    digests = document.pop("granules")
    description = {"file": str(file), "image_id": measured.image_id, **document, "alignments": _alignments(measured)}
    return {**description, "granules": digests} if granules else description


def _alignments(measured: "ImageMeasurements") -> dict[str, Any]:
    """Each layout: bytes of padding in front, granules, and a digest over all granule digests, for comparing two hosts."""
    from kbs_rim.evidence.hash_algorithm import HashAlgorithm
    from kbs_rim.measurement.granules import Alignment, granule_count, lead_of

    found = {}
    for alignment in Alignment:
        lead = lead_of(alignment, measured.size)
        found[alignment.value] = {
            "lead": lead,
            "granules": granule_count(measured.size, lead),
            "digests": {
                algorithm.compact_name: algorithm.digest(measured.granules[algorithm, alignment]).hex() for algorithm in HashAlgorithm
            },
        }
    return found


def _overview(file: Path, measured: "ImageMeasurements") -> list[tuple[str, object]]:
    from kbs_rim.cli.image_parts import part_rows
    from kbs_rim.evidence.hash_algorithm import HashAlgorithm

    rows: list[tuple[str, object]] = [("file", file), ("image id", measured.image_id), ("kind", measured.kind.value)]
    if measured.compression:
        rows.append(("file size", f"{measured.file_size} bytes, {measured.compression.value}"))
        rows += [(f"file {algorithm.compact_name}", measured.file_digests[algorithm].hex()) for algorithm in HashAlgorithm]
    rows.append(("size", f"{measured.size} bytes as loaded"))
    rows += [(algorithm.compact_name, measured.digests[algorithm].hex()) for algorithm in HashAlgorithm]
    if kernel := measured.kernel:
        rows.append(("kernel", f"text_offset {kernel.text_offset:#x}, image_size {kernel.image_size:#x}, flags {kernel.flags:#x}"))
    if tree := measured.device_tree:
        rows += [("memory", f"{base:#x}, {size:#x} bytes") for base, size in tree.memory]
        rows += [("CPUs", tree.cpus), ("boot arguments", "none" if tree.bootargs is None else tree.bootargs)]
        rows.append(("initrd", f"{tree.initrd[0]:#x}-{tree.initrd[1]:#x}" if tree.initrd else "none"))
        rows.append(("log area", f"{tree.log_area[0]:#x}, {tree.log_area[1]:#x} bytes" if tree.log_area else "none"))
    document = measured.with_granules_of().to_document()
    rows += part_rows(document["pe"], document["volumes"])
    for name, layout in _alignments(measured).items():
        rows.append((f"{name}-aligned", f"granules: {layout['granules']}, bytes of padding in front: {layout['lead']}"))
    return rows


def _print_overview(rows: list[tuple[str, object]]) -> None:
    """Print names and values; into a pipe without folding, so that digests stay in one piece."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(str(value)))
    terminal = sys.stdout.isatty()
    console = Console(highlight=False, width=None if terminal else _PIPE_COLUMNS)
    with console.capture() as capture:
        console.print(table)
    click.echo("\n".join(line.rstrip() for line in capture.get().splitlines()))
