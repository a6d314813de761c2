"""What ``kbs-rim image add`` and ``follow`` share: where lists and caches are, progress on stderr, images as JSON."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import click

if TYPE_CHECKING:
    from kbs_rim.image_sources.collecting import Collector
    from kbs_rim.image_sources.follow_state import FollowState
    from kbs_rim.image_sources.origins import SourcedImage
    from kbs_rim.image_sources.sources_file import Sources

_F = TypeVar("_F", bound=Callable[..., Any])
_MB = 1_000_000


def _home(variable: str, usual: str) -> Path:
    return Path(os.environ.get(variable) or Path.home() / usual) / "kbs-rim"


def state_path(given: Path | None) -> Path:
    """Return the file that remembers, the usual one if none is named."""
    return given or _home("XDG_STATE_HOME", ".local/state") / "images.json"


def sourced_options(command: _F) -> _F:
    """Add the options that say where sources are listed, and where things are kept between two runs."""
    options = (
        click.option(
            "--sources",
            "sources_file",
            envvar="KBS_RIM_IMAGE_SOURCES",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="TOML file with the repositories that you trust (KBS_RIM_IMAGE_SOURCES).",
        ),
        click.option("--cache", type=click.Path(file_okay=False, path_type=Path), help="Folder for what is fetched. [~/.cache/kbs-rim]"),
        click.option(
            "--state",
            "state_file",
            envvar="KBS_RIM_IMAGE_STATE",
            type=click.Path(dir_okay=False, path_type=Path),
            help="File that remembers the newest release seen, and proposals (KBS_RIM_IMAGE_STATE). [~/.local/state/kbs-rim/images.json]",
        ),
        click.option("--offline", is_flag=True, help="Fetch nothing: take from the cache what was fetched before."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def load_sources(path: Path | None) -> "Sources":
    """Read the list of sources; an empty one if no file is named."""
    from kbs_rim.image_sources.source_limits import DEFAULT_SOURCE_LIMITS
    from kbs_rim.image_sources.sources_file import Sources, parse_sources

    if path is None:
        return Sources(())
    with path.open("rb") as file:
        return parse_sources(file.read(DEFAULT_SOURCE_LIMITS.document_bytes + 1), path.parent.absolute(), DEFAULT_SOURCE_LIMITS)


@contextmanager
def collecting(
    sources: "Sources", cache: Path | None, state_file: Path | None, *, offline: bool, everything: bool = False
) -> Iterator[tuple["Collector", "FollowState", Path]]:
    """Yield a collector with progress and threads, the state, and its file. Dates of releases that were seen are always saved."""
    from kbs_rim.image_sources.collecting import Collector
    from kbs_rim.image_sources.follow_state import load_state, save_state
    from kbs_rim.image_sources.shared_work import SharedWork

    path = state_path(state_file)
    state = load_state(path)
    seen = dict(state.newest)
    with SharedWork() as work, _Progress() as progress:
        collector = Collector(
            sources,
            datetime.now(UTC),
            newest_seen=state.newest,
            cache=cache or _home("XDG_CACHE_HOME", ".cache") / "images",
            offline=offline,
            everything=everything,
            do=work,
            watcher=progress,
        )
        try:
            yield collector, state, path
        finally:
            if state.newest != seen:
                save_state(path, state)


class _Progress:
    """Progress bars on stderr, where somebody watches."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._watched = sys.stderr.isatty()
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True, disable=not self._watched)
        self._hashing: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def fetching(self, what: str, size: int) -> Callable[[int], None]:
        """Open a bar for a download."""
        task = self._progress.add_task(f"fetching {what}", total=size)
        return lambda count: self._progress.update(task, advance=count)

    def hashing(self, path: str, count: int) -> None:
        """Count on in the bar of a file."""
        if not self._watched:
            return
        if path not in self._hashing:
            self._hashing[path] = self._progress.add_task(f"hashing {path[-60:]}", total=None)
        self._progress.update(self._hashing[path], advance=count)


def submission(image: "SourcedImage") -> dict[str, Any]:
    """Return an image as the broker takes it."""
    return {
        "name": image.name,
        "roles": [role.value for role in image.found.roles],
        "measurements": image.found.measurements.to_document(),
        "provenance": dict(image.provenance),
    }


def description(image: "SourcedImage") -> dict[str, Any]:
    """Return what is known of an image that was found, without its granules."""
    found = image.found
    document = found.measurements.with_granules_of().to_document()
    return {
        "image_id": found.measurements.image_id,
        "name": image.name,
        "kind": found.kind.value,
        "roles": [role.value for role in found.roles],
        "size": found.measurements.size,
        "digests": document["digests"],
        "locations": [
            {"path": place.path, "container": place.container or None, "offset": place.offset, "links": list(place.links)}
            for place in found.locations
        ],
        "provenance": dict(image.provenance),
    }


def say_speed(hashed_bytes: int, seconds: float, what: str = "unpacked and hashed") -> None:
    """Tell on stderr how fast it was, where there was anything to wait for. Of a package all is read, and only what boots is hashed."""
    if hashed_bytes >= _MB:
        speed = f"{hashed_bytes / _MB / max(seconds, 1e-6):.0f} MB/s"
        click.echo(f"kbs-rim: {hashed_bytes / _MB:.1f} MB {what} in all ways in {seconds:.1f} s, {speed}", err=True)
