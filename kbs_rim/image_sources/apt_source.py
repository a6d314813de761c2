"""A Debian repository that an administrator trusts: which one, by which keys, and the walk from its signature to a package.

    keyring -> InRelease, or Release and Release.gpg -> package index (by its hash) -> stanza -> .deb

Every link is checked here, whatever apt on this machine believes, and every link is recorded.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO

from kbs_rim.errors import RefusedSource
from kbs_rim.image_sources.byte_streams import read_up_to
from kbs_rim.image_sources.control_fields import parse_stanza, stanzas_of
from kbs_rim.image_sources.deb_package import PackageFacts
from kbs_rim.image_sources.debian_version import DebianVersion
from kbs_rim.image_sources.decompression import Packing, Unpacked
from kbs_rim.image_sources.openpgp import SignedText, verify_release
from kbs_rim.image_sources.release_file import IndexEntry, Release, parse_release, safe_relative
from kbs_rim.image_sources.source_limits import DEFAULT_SOURCE_LIMITS, SourceLimits
from kbs_rim.image_sources.transport import Mirror

_PACKINGS = (Packing.XZ, Packing.GZIP, Packing.NONE)
"""Every archive that is in use has one of these."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FINGERPRINT = re.compile(r"[0-9A-F]{40}|[0-9A-F]{64}")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+/-]{0,99}")
_SLACK_BYTES = 16 * 1024 * 1024
"""Installed-Size is rounded and leaves out what tar adds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AptSource:
    """One suite of a repository. ``signed_by`` are fingerprints of primary keys; without any, each key of the keyring will do.

    ``suite`` must be the signed suite or codename. ``origin`` must be the signed one, if it is given. ``max_age_days`` is for suites
    whose release files never expire. ``release_sha256`` pins the release file itself, as an archive of old states needs it: then,
    and only then, it may have expired. Raises ``ValueError``.
    """

    name: str
    uri: str
    suite: str
    keyring: Path
    components: tuple[str, ...] = ("main",)
    architecture: str = "arm64"
    signed_by: tuple[str, ...] = ()
    origin: str | None = None
    max_age_days: int | None = None
    release_sha256: str | None = None

    def __post_init__(self) -> None:
        if not all(_WORD.fullmatch(word) and ".." not in word for word in (self.name, self.suite, self.architecture, *self.components)):
            raise ValueError("name, suite, components and architecture are words of letters, digits and . _ + / -")
        if not self.components:
            raise ValueError("a source has at least one component")
        if not all(_FINGERPRINT.fullmatch(print_) for print_ in self.signed_by):
            raise ValueError("signed_by lists fingerprints of primary keys: 40 or 64 hexadecimal digits in upper case")
        if self.release_sha256 is not None and not _SHA256.fullmatch(self.release_sha256):
            raise ValueError("release_sha256 has 64 hexadecimal digits in lower case")
        if self.max_age_days is not None and self.max_age_days < 1:
            raise ValueError("max_age_days is at least 1")


@dataclass(frozen=True, slots=True)
class VerifiedRelease:
    """A release file whose signature was checked, and the words that later readers need to check it again."""

    release: Release
    form: str
    sha256: str
    signed: SignedText


@dataclass(frozen=True, slots=True)
class Offer:
    """A package that a signed index offers: where it is, how large, its digest, and what led to it."""

    facts: PackageFacts
    version: DebianVersion
    filename: str
    size: int
    sha256: str
    depends: str
    installed_bytes: int | None
    source: AptSource
    release: VerifiedRelease
    index: IndexEntry
    via: str = ""

    def budget(self) -> int | None:
        """Return to how many bytes its data may unpack, if the signed index says how large it is when installed."""
        return None if self.installed_bytes is None else 2 * self.installed_bytes + _SLACK_BYTES

    def provenance(self) -> dict[str, str]:
        """Return the whole chain as text by name."""
        release, signed = self.release.release, self.release.signed
        words = {
            "origin": release.origin or self.source.name,
            "package": self.facts.package,
            "package-version": self.facts.version,
            "package-architecture": self.facts.architecture,
            "package-file": self.filename,
            "package-sha256": self.sha256,
            "repository": self.source.uri,
            "suite": " ".join(filter(None, (release.codename or self.source.suite, release.version))),
            "index": self.index.path,
            "index-sha256": self.index.sha256,
            "release-form": self.release.form,
            "release-sha256": self.release.sha256,
            "release-date": release.date.isoformat(),
            "signed-by": ", ".join(f"{signer.primary} (key {signer.key})" for signer in signed.signers[:8]),
            "keyring-sha256": signed.keyring_sha256,
        }
        if self.via:
            words["via"] = self.via
        return words


class AptRepository:
    """Reads one source. The release file is fetched once; everything else is what it lists."""

    def __init__(
        self,
        source: AptSource,
        *,
        now: datetime,
        cache: Path | None = None,
        offline: bool = False,
        newest_seen: datetime | None = None,
        limits: SourceLimits = DEFAULT_SOURCE_LIMITS,
    ) -> None:
        """``newest_seen`` is the date of the newest release file that was seen before from this source."""
        self.source, self._limits = source, limits
        self._now, self._newest_seen = now, newest_seen
        self._mirror = Mirror(source.uri, cache, offline=offline)
        self._verified: VerifiedRelease | None = None
        self._indexes: dict[str, tuple[IndexEntry, bytes]] = {}

    def release(self) -> VerifiedRelease:
        """Fetch and check the release file.

        Raises ``RefusedSource``: ``source.signature``, ``source.expired``, ``source.rollback``, ``source.identity``, ``source.release``.
        """
        if self._verified is None:
            form, sha256, signed = self._signed_release()
            verified = VerifiedRelease(parse_release(signed.text), form, sha256, signed)
            self._check(verified)
            self._verified = verified
        return self._verified

    def offers(self, package: str) -> list[Offer]:
        """Return every version of a package that the source has, the oldest first. Raises ``RefusedSource``, ``OurFault``."""
        found = [offer for component in self.source.components for offer in self._offers_in(component, package)]
        return sorted(found, key=lambda offer: offer.version)

    def offer(self, package: str, version: str | None = None) -> Offer:
        """Return one version, the newest if none is named. Raises ``RefusedSource`` (``source.package-unknown``)."""
        offers = self.offers(package)
        wanted = [item for item in offers if version is None or item.facts.version == version]
        if not wanted:
            name = package if version is None else f"{package} {version}"
            known = ", ".join(item.facts.version for item in offers) or "none"
            raise RefusedSource(
                "source.package-unknown", f"{self.source.name} has no {name}; there is {known}", expected=known, seen=version
            )
        return wanted[-1]

    def exact_dependencies(self, offer: Offer, prefix: str = "linux-image-") -> Iterator[Offer]:
        """Yield what a package that holds nothing itself stands for: its dependencies on exact versions of kernels."""
        for part in offer.depends.split(","):
            match = re.fullmatch(r"\s*([a-z0-9][a-z0-9+.-]*)(?::any)?\s*\(=\s*([^\s)]+)\s*\)\s*", part)
            if match and match[1].startswith(prefix):
                via = f"{offer.facts.package} {offer.facts.version}"
                yield replace(self.offer(match[1], match[2]), via=via)

    def fetch(self, offer: Offer, progress: Callable[[int], None] = lambda count: None) -> IO[bytes]:
        """Return the package, which is what the index says. Raises ``RefusedSource`` (``source.package-differs``), ``OurFault``."""
        if offer.size > self._limits.package_bytes:
            raise RefusedSource("source.too-large", f"{offer.filename} is too large", seen=f"{offer.size} bytes")
        return self._mirror.fetch_known(offer.filename, offer.size, offer.sha256, "source.package-differs", progress)

    # --- release file -------------------------------------------------------------------------------------------------

    def _signed_release(self) -> tuple[str, str, SignedText]:
        folder = f"dists/{self.source.suite}"
        try:
            data = self._mirror.fetch(f"{folder}/InRelease", self._limits.release_bytes)
            form, detached = "InRelease", None
        except FileNotFoundError:
            form, data, detached = self._detached(folder)
        sha256 = hashlib.sha256(data).hexdigest()
        if self.source.release_sha256 not in (None, sha256):
            raise RefusedSource(
                "source.identity", f"{form} is not the one that is pinned", expected=self.source.release_sha256, seen=sha256
            )
        return form, sha256, verify_release(data, self.source.keyring, self.source.signed_by, detached=detached)

    def _detached(self, folder: str) -> tuple[str, bytes, bytes]:
        try:
            data = self._mirror.fetch(f"{folder}/Release", self._limits.release_bytes)
            detached = self._mirror.fetch(f"{folder}/Release.gpg", self._limits.release_bytes)
        except FileNotFoundError:
            raise RefusedSource("source.signature", f"{self.source.uri} has no signed release file of {self.source.suite}") from None
        return "Release", data, detached

    def _check(self, verified: VerifiedRelease) -> None:
        release, source = verified.release, self.source
        age = None if source.max_age_days is None else timedelta(days=source.max_age_days)
        release.check_time(self._now, max_age=age, expires=source.release_sha256 is None)
        if source.suite not in (release.suite, release.codename):
            raise RefusedSource(
                "source.identity", "the release file is of another suite", expected=source.suite, seen=f"{release.suite} {release.codename}"
            )
        if source.origin not in (None, release.origin):
            raise RefusedSource("source.identity", "the release file is of another origin", expected=source.origin, seen=release.origin)
        missing = set(source.components) - set(release.components)
        # A security suite may name its components updates/main and list its files under main.
        if missing - {name.rpartition("/")[2] for name in release.components}:
            raise RefusedSource(
                "source.identity", "the suite has no such component", expected=", ".join(missing), seen=str(release.components)
            )
        if source.architecture not in release.architectures:
            raise RefusedSource("source.identity", "the suite has no such architecture", expected=source.architecture)
        if source.release_sha256 is None and self._newest_seen is not None and release.date < self._newest_seen:
            raise RefusedSource(
                "source.rollback",
                "the release file is older than one that was seen before",
                expected=f"not before {self._newest_seen.astimezone(UTC).isoformat()}",
                seen=release.date.isoformat(),
            )

    # --- index --------------------------------------------------------------------------------------------------------

    def _offers_in(self, component: str, package: str) -> Iterator[Offer]:
        entry, index = self._index(component)
        for stanza in stanzas_of(index, package):
            yield self._offer(parse_stanza(stanza, "source.index"), entry)

    def _offer(self, stanza: Mapping[str, str], entry: IndexEntry) -> Offer:
        size, sha256, filename = stanza.get("size", ""), stanza.get("sha256", ""), stanza.get("filename", "")
        if not (size.isascii() and size.isdigit() and len(size) < 16) or not _SHA256.fullmatch(sha256) or not filename:
            raise RefusedSource("source.index", "a stanza lacks Filename, Size or SHA256", seen=stanza.get("package"))
        facts = PackageFacts.from_fields(stanza)
        installed = stanza.get("installed-size", "")
        return Offer(
            facts=facts,
            version=DebianVersion(facts.version),
            filename=safe_relative(filename, "source.index"),
            size=int(size),
            sha256=sha256,
            depends=stanza.get("depends", ""),
            installed_bytes=int(installed) * 1024 if installed.isascii() and installed.isdigit() and len(installed) < 13 else None,
            source=self.source,
            release=self.release(),
            index=entry,
        )

    def _index(self, component: str) -> tuple[IndexEntry, bytes]:
        """Return the index of a component and what the release says of it, unpacked and checked in both forms."""
        if component not in self._indexes:
            release = self.release().release
            plain = f"{component}/binary-{self.source.architecture}/Packages"
            names = [(packing, plain + (f".{packing}" if packing else "")) for packing in _PACKINGS]
            chosen = [(packing, release.files[name]) for packing, name in names if name in release.files]
            if not chosen:
                raise RefusedSource("source.release", f"the signed release file lists no SHA-256 of {plain}")
            packing, entry = chosen[0]
            self._indexes[component] = (entry, self._unpacked_index(entry, packing, release.files.get(plain), by_hash=release.by_hash))
        return self._indexes[component]

    def _unpacked_index(self, entry: IndexEntry, packing: Packing, plain: IndexEntry | None, *, by_hash: bool) -> bytes:
        folder = f"dists/{self.source.suite}"
        paths = [f"{folder}/{entry.path}"]
        if by_hash:
            paths.insert(0, f"{folder}/{entry.path.rpartition('/')[0]}/by-hash/SHA256/{entry.sha256}")
        if entry.size > self._limits.index_bytes:
            raise RefusedSource("source.too-large", f"{entry.path} is too large", seen=f"{entry.size} bytes")
        with self._open_first(paths, entry) as file:
            budget = min(self._limits.index_bytes, plain.size if plain else self._limits.index_bytes)
            data = read_up_to(Unpacked(file, packing, self._limits, budget), self._limits.index_bytes + 1)
        if plain is not None and (len(data), hashlib.sha256(data).hexdigest()) != (plain.size, plain.sha256):
            raise RefusedSource("source.index-differs", f"{plain.path}, unpacked, is not what was signed", expected=plain.sha256)
        return data

    def _open_first(self, paths: list[str], entry: IndexEntry) -> IO[bytes]:
        for path in paths:
            try:
                return self._mirror.fetch_known(path, entry.size, entry.sha256, "source.index-differs")
            except FileNotFoundError:
                continue
        raise RefusedSource("source.index-differs", "the mirror does not have an index that its release file lists", seen=entry.path)
