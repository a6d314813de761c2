"""``kbs-rim log``: read measurement logs and recompute RIMs from them, offline."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kbs_rim.cli import EXIT_OK, EXIT_REFUSED

if TYPE_CHECKING:
    from kbs_rim.evidence.hash_algorithm import HashAlgorithm
    from kbs_rim.measurement.boot_plan import BootPlan
    from kbs_rim.measurement.image import ImageMeasurements

_FILE = click.Path(path_type=Path)
_LOG = click.Path(path_type=Path, allow_dash=True)
_ROUNDINGS = {"4k": 4096, "16k": 16384, "64k": 65536}
_CHUNK = 1 << 20
_KIND = click.option(
    "--kind",
    type=click.Choice(["vmm", "tpm", "cc", "cel", "cel-tlv", "cel-cbor", "cel-json", "ima", "aael"]),
    help="What kind of log it is [default: guessed from its contents].",
)
_NUMBERING = click.option(
    "--numbering",
    type=click.Choice(["pcr", "mr"]),
    help="What register numbers of a cel or aael log count: PCRs or measurement registers [default: what the log says].",
)


@click.group("log")
def command() -> None:
    """Read measurement logs and recompute RIMs from them."""


@command.command()
@click.argument("file", type=_LOG)
@_KIND
@_NUMBERING
@click.option("--registers", is_flag=True, help="Print the registers that the log extends, instead of its records.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(file: Path, kind: str | None, numbering: str | None, registers: bool, as_json: bool) -> int:
    """Print the records of the log FILE (- reads stdin), or its replayed registers. Exit 1 if it is malformed.

    What a log says is not proven by showing it: only digests are measured, and only a register tells whether they were. The last
    column says whether a digest was computed again from the record, and if not, what it should be the hash of.
    """
    from kbs_rim.cli import log_view

    data = _read(file)
    if log_view.is_ccel_table(data, kind):
        log_view.print_ccel_table(data, as_json=as_json)
        return EXIT_OK
    view = log_view.read_view(data, kind, numbering)
    if registers:
        log_view.print_registers(view, as_json=as_json)
    elif as_json:
        click.echo(json.dumps(log_view.document_of(view), indent=2))
    else:
        log_view.print_table(view)
    if kind is None:
        click.echo(f"kbs-rim: read as a {view.kind} log; --kind says otherwise", err=True)
    return EXIT_OK


@command.command()
@click.argument("before", type=_LOG)
@click.argument("after", type=_LOG)
@_KIND
@_NUMBERING
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def diff(before: Path, after: Path, kind: str | None, numbering: str | None, as_json: bool) -> int:
    """Print what differs between the logs of two boots, BEFORE and AFTER, register by register: + added, - removed, ~ changed.

    Digests are compared, and not what records say: that is not measured. In a VMM's log the records themselves are compared: they are
    the operations that the RIM measures. Exit 0 if nothing differs, 1 if something does, 2 if the logs cannot be compared.
    """
    from kbs_rim.cli import log_diff, log_view
    from kbs_rim.errors import MalformedEvidence
    from kbs_rim.evidence.event_diff import diff_logs

    views = []
    for file in (before, after):
        try:
            views.append(log_view.read_view(_read(file), kind, numbering))
        except MalformedEvidence as error:
            raise click.ClickException(f"{file}: {error.finding_id}: {error}") from None
    try:
        changes = diff_logs(views[0].log, views[1].log)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    log_diff.print_changes(changes, views[0], views[1], as_json=as_json)
    if kind is None and views[0].kind != views[1].kind:
        click.echo(f"kbs-rim: read as a {views[0].kind} and a {views[1].kind} log; --kind says otherwise", err=True)
    return EXIT_REFUSED if changes else EXIT_OK


def _read(file: Path) -> bytes:
    from kbs_rim.limits import DEFAULT_LIMITS

    with click.open_file(str(file), "rb") as stream:
        data: bytes = stream.read(DEFAULT_LIMITS.log_bytes + 1)
    return data


@command.command()
@click.argument("log", type=_LOG)
@click.argument("more_images", type=_FILE, nargs=-1, metavar="[IMAGE]...")
@click.option("--image", "images", type=_FILE, multiple=True, help="An image file that the log may name; may be repeated.")
@click.option("--rmm", type=click.Choice(["1.0", "2.0"]), required=True, help="Measurement rules: RMM 1.0 measures RIPAS, 2.0 does not.")
@click.option("--rounding", type=click.Choice(list(_ROUNDINGS)), default="4k", show_default=True, help="Page size of the host.")
@click.option(
    "--order",
    type=click.Choice(["log", "ripas-last", "ripas-last-whole"]),
    default="log",
    show_default=True,
    help="Order of operations: as logged, or RIPAS at the first run, as newer kernels do.",
)
@click.option("--pmu-counters", type=click.IntRange(0, 255), help="Replay with this pmu_num_ctrs instead of the logged one.")
@click.option("--lpa2", is_flag=True, help="Replay with the LPA2 flag, which the host's kernel may set and no VMM logs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: RIM, dialect, hash algorithm and images.")
def rim(
    log: Path,
    more_images: tuple[Path, ...],
    images: tuple[Path, ...],
    rmm: str,
    rounding: str,
    order: str,
    pmu_counters: int | None,
    lpa2: bool,
    as_json: bool,
) -> int:
    """Recompute the RIM that a VMM's LOG (- reads stdin) stands for, from image files, and print it in hex.

    Images may be given as several --image options, or all behind one. A gzip'd kernel is known by its unpacked bytes.
    """
    from dataclasses import replace

    from kbs_rim.evidence.tcg_log import LogKind, parse_tcg_log
    from kbs_rim.measurement.boot_plan import boot_plan_from_log
    from kbs_rim.measurement.dialect import Dialect, Order, Rounding
    from kbs_rim.measurement.replay import replay_rim
    from kbs_rim.measurement.rmm import RealmFlags, RmmVersion

    plan = boot_plan_from_log(parse_tcg_log(_read(log), LogKind.VMM))
    lookup = _GivenImages((*images, *more_images))
    dialect = Dialect(RmmVersion(rmm), Rounding(_ROUNDINGS[rounding]), Order(order))
    params = plan.create.params if pmu_counters is None else replace(plan.create.params, pmu_num_ctrs=pmu_counters)
    if lpa2:
        params = replace(params, flags=params.flags | RealmFlags.LPA2)
    value = replay_rim(plan, lookup, dialect, params=params).hex()
    if as_json:
        loaded = list(_loaded(plan, lookup))
        click.echo(
            json.dumps({"rim": value, "dialect": str(dialect), "hash_algorithm": plan.hash_algorithm.value, "images": loaded}, indent=2)
        )
    else:
        click.echo(value)
    if pmu_counters is None:
        _warn_of_pmu(plan)
    return EXIT_OK


def _warn_of_pmu(plan: "BootPlan") -> None:
    from kbs_rim.measurement.replay import params_to_try

    if len(params_to_try(plan.create.params)) > 1:
        logged = plan.create.params.pmu_num_ctrs
        click.echo(f"kbs-rim: the log has {logged} PMU counters without the PMU flag; a host with KVM needs --pmu-counters 0", err=True)


def _loaded(plan: "BootPlan", lookup: "_GivenImages") -> Iterator[dict[str, Any]]:
    for loaded in plan.images:
        image = lookup.find(loaded.algorithm, loaded.digest)
        yield {
            "event": loaded.event,
            "description": loaded.description,
            "base": loaded.base,
            "size": loaded.size,
            "image": None if image is None else image.image_id,
            "file": None if image is None else str(image.file),
        }


class _GivenImage:
    """An image file of the command line. Its content is at hand, so it may lie at any offset within a page."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._measurements = _measure(file)

    @property
    def image_id(self) -> str:
        return self._measurements.image_id

    @property
    def size(self) -> int:
        return self._measurements.size

    @property
    def digests(self) -> Mapping["HashAlgorithm", bytes]:
        return self._measurements.digests

    def granules_at(self, base: int, algorithm: "HashAlgorithm") -> bytes | None:
        from kbs_rim.limits import GRANULE_SIZE
        from kbs_rim.measurement.granules import granule_digests

        known = self._measurements.granules_at(base, algorithm)
        if known is not None or self._measurements.compression is not None:
            return known
        with self.file.open("rb") as stream:
            return granule_digests(iter(lambda: stream.read(_CHUNK), b""), algorithm, lead=base % GRANULE_SIZE)


class _GivenImages:
    """The images of the command line, by the digests of the bytes that a VMM loads."""

    def __init__(self, files: tuple[Path, ...]) -> None:
        images = [_GivenImage(file) for file in files]
        self._images = {(algorithm, digest): image for image in images for algorithm, digest in image.digests.items()}

    def find(self, algorithm: "HashAlgorithm", digest: bytes) -> _GivenImage | None:
        return self._images.get((algorithm, digest))


def _measure(file: Path) -> "ImageMeasurements":
    from kbs_rim.errors import MalformedEvidence
    from kbs_rim.measurement.image import measure_stream

    with file.open("rb") as stream:
        try:
            return measure_stream(iter(lambda: stream.read(_CHUNK), b""), file.stat().st_size)
        except MalformedEvidence as error:
            raise MalformedEvidence(error.finding_id, f"{file}: {error}", expected=error.expected, seen=error.seen) from None
