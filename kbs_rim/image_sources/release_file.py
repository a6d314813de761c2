"""Debian's ``Release`` files: what a repository consists of, as its keys signed it (Debian wiki, DebianRepository/Format)."""

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from kbs_rim.errors import RefusedSource
from kbs_rim.image_sources.control_fields import parse_stanza

_ENTRY = re.compile(r"([0-9a-f]{64})\s+([0-9]{1,15})\s+(\S{1,500})")
_CLOCKS_DIFFER_BY = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """A file that a release lists: path below the release's folder, size in bytes, SHA-256 in hex."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Release:
    """The signed fields that matter. Times are aware; ``valid_until`` is None where the archive sets none."""

    origin: str
    label: str
    suite: str
    codename: str
    version: str
    date: datetime
    valid_until: datetime | None
    components: tuple[str, ...]
    architectures: tuple[str, ...]
    by_hash: bool
    files: Mapping[str, IndexEntry]

    def check_time(self, now: datetime, *, max_age: timedelta | None, expires: bool = True) -> None:
        """Refuse a release that is not of this time. ``expires`` is False where the very bytes of the release are pinned.

        Raises ``RefusedSource`` (``source.expired``).
        """
        if self.date > now + _CLOCKS_DIFFER_BY:
            raise RefusedSource("source.expired", "the release file is from the future", seen=self.date.isoformat())
        if not expires:
            return
        if self.valid_until is not None and self.valid_until < now:
            raise RefusedSource(
                "source.expired", "the release file has expired", expected="Valid-Until after now", seen=str(self.valid_until)
            )
        if max_age is not None and self.date + max_age < now:
            raise RefusedSource(
                "source.expired",
                "the release file is older than the source allows",
                expected=f"at most {max_age.days} days",
                seen=str(self.date),
            )

    def entry(self, path: str) -> IndexEntry:
        """Raises ``RefusedSource`` (``source.release``) for a file that the release does not list."""
        if path not in self.files:
            raise RefusedSource("source.release", f"the signed release file lists no SHA-256 of {path}")
        return self.files[path]


def parse_release(text: bytes) -> Release:
    """Read the signed text. Raises ``RefusedSource`` (``source.release``)."""
    fields = parse_stanza(text.strip(b"\n"), "source.release")
    if "sha256" not in fields:
        raise RefusedSource("source.release", "the release file has no SHA256 block")
    valid_until = fields.get("valid-until")
    return Release(
        origin=fields.get("origin", ""),
        label=fields.get("label", ""),
        suite=fields.get("suite", ""),
        codename=fields.get("codename", ""),
        version=fields.get("version", ""),
        date=_time(fields.get("date", ""), "Date"),
        valid_until=None if valid_until is None else _time(valid_until, "Valid-Until"),
        components=tuple(fields.get("components", "").split()),
        architectures=tuple(fields.get("architectures", "").split()),
        by_hash=fields.get("acquire-by-hash", "").strip().lower() == "yes",
        files=_files(fields["sha256"]),
    )


def _files(block: str) -> dict[str, IndexEntry]:
    files: dict[str, IndexEntry] = {}
    for line in block.strip().splitlines():
        match = _ENTRY.fullmatch(line.strip())
        if not match:
            raise RefusedSource("source.release", "a line of the SHA256 block is no digest, size and path", seen=line[:120])
        path = safe_relative(match[3], "source.release")
        entry = IndexEntry(path, int(match[2]), match[1])
        if files.setdefault(path, entry) != entry:
            raise RefusedSource("source.release", "the release file lists a path twice, with different digests", seen=path)
    return files


def safe_relative(path: str, finding_id: str) -> str:
    """Return a path that stays below where it begins, as it is written. Raises ``RefusedSource`` with ``finding_id``."""
    parts = path.split("/")
    if (
        not path.isprintable()
        or path.startswith("/")
        or ".." in parts
        or "\\" in path
        or posixpath.normpath(path) != path.removeprefix("./")
    ):
        raise RefusedSource(finding_id, "a path leads out of the repository, or is not written plainly", seen=path[:120])
    return path.removeprefix("./")


def _time(text: str, field: str) -> datetime:
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        raise RefusedSource("source.release", f"{field} of the release file is no date", seen=text[:80]) from None
    # "-0000" and missing zones give naive times; the format says UTC.
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:
        raise RefusedSource("source.release", f"{field} of the release file is no date", seen=text[:80]) from None
