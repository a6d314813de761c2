"""The administrator's list of sources: which repositories are trusted, by which keys, and which packages are followed.

TOML, for instance::

    [[apt]]
    name = "debian"
    uri = "https://mirror.example/debian"
    suite = "bookworm"
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    signed_by = ["4D64FEC119C2029067D6E791F8D2585B8783D481"]
    origin = "Debian"

    [[follow]]
    name = "kernel"
    source = "debian"
    package = "linux-image-arm64"
    approve = "ask"
    supersede = "ask"
"""

from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from kbs_rim.appraisal.workload import Role
from kbs_rim.errors import InvalidDocument
from kbs_rim.image_sources.apt_source import AptSource
from kbs_rim.image_sources.requests import expect_keys, read_toml, roles_of, text_of, texts_of
from kbs_rim.image_sources.source_limits import SourceLimits

_APT_KEYS = {
    "name", "uri", "suite", "components", "architecture", "keyring", "signed_by", "origin", "max_age_days", "release_sha256",
}  # fmt: skip
_FOLLOW_KEYS = {"name", "source", "package", "match", "roles", "versions", "approve", "supersede"}
_MAX_ENTRIES = 100


class Consent(StrEnum):
    """Who decides: a person each time, or the rule itself."""

    ASK = "ask"
    AUTOMATIC = "automatic"
    NEVER = "never"


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowRule:
    """A package whose new versions are to be proposed.

    ``versions`` are patterns; a version that matches none is not looked at. ``approve`` says who decides that a new version is
    trusted, ``supersede`` who decides that the images before it are deprecated. Raises ``ValueError``: what approves by itself must say
    which versions it means.
    """

    name: str
    source: str
    package: str
    patterns: tuple[str, ...] = ()
    roles: tuple[Role, ...] = ()
    versions: tuple[str, ...] = ()
    approve: Consent = Consent.ASK
    supersede: Consent = Consent.NEVER

    def __post_init__(self) -> None:
        if self.approve is Consent.NEVER:
            raise ValueError("approve is ask or automatic; leave the rule out if nothing is to be proposed")
        if self.approve is Consent.AUTOMATIC and not self.versions:
            raise ValueError("a rule that approves by itself must say which versions it means: versions = [...]")

    def allows(self, version: str) -> bool:
        """Return whether the version is one that the rule is about."""
        return not self.versions or any(fnmatchcase(version, pattern) for pattern in self.versions)


@dataclass(frozen=True, slots=True)
class Sources:
    """A list of sources. Raises ``ValueError`` for names that stand twice, and for rules that cannot work."""

    apt: tuple[AptSource, ...]
    follow: tuple[FollowRule, ...] = ()

    def __post_init__(self) -> None:
        for what, names in (("source", [item.name for item in self.apt]), ("rule", [item.name for item in self.follow])):
            if len(set(names)) != len(names):
                raise ValueError(f"a {what} has a name of its own")
        known = {item.name: item for item in self.apt}
        for rule in self.follow:
            if rule.source not in known:
                raise ValueError(f"the rule {rule.name} names the source {rule.source}, which is not in the list")
            if rule.approve is Consent.AUTOMATIC and not known[rule.source].signed_by:
                raise ValueError(f"the rule {rule.name} approves by itself, so its source must pin its keys: signed_by = [...]")

    def named(self, name: str | None) -> tuple[AptSource, ...]:
        """Return one source, or all. Raises ``InvalidDocument`` (``document.sources``)."""
        chosen = self.apt if name is None else tuple(item for item in self.apt if item.name == name)
        if not chosen:
            known = ", ".join(item.name for item in self.apt) or "none"
            message = f"there is no source {name}" if name else "no source is listed: name a list (--sources, KBS_RIM_IMAGE_SOURCES)"
            raise InvalidDocument("document.sources", message, expected=known)
        return chosen


def parse_sources(data: bytes, folder: Path, limits: SourceLimits) -> Sources:
    """Read the list; keyrings in it are relative to ``folder``. Raises ``InvalidDocument`` (``document.sources``)."""
    document = read_toml(data, limits)
    expect_keys(document, {"apt", "follow"}, "the list of sources")
    try:
        apt = tuple(_apt(entry, folder, f"apt {number}") for number, entry in enumerate(_entries(document, "apt"), 1))
        rules = tuple(_rule(entry, f"follow {number}") for number, entry in enumerate(_entries(document, "follow"), 1))
        return Sources(apt, rules)
    except ValueError as error:
        raise InvalidDocument("document.sources", str(error)) from None


def _entries(document: dict[str, Any], key: str) -> list[Any]:
    entries = document.get(key, [])
    if not isinstance(entries, list) or len(entries) > _MAX_ENTRIES:
        raise ValueError(f"write [[{key}]], at most {_MAX_ENTRIES} times")
    return entries


def _apt(entry: Any, folder: Path, where: str) -> AptSource:
    expect_keys(entry, _APT_KEYS, where)
    words = {key: text_of(entry, key, where) for key in ("name", "uri", "suite", "keyring", "architecture", "origin", "release_sha256")}
    for key in ("name", "uri", "suite", "keyring"):
        if words[key] is None:
            raise ValueError(f"{where}: {key} is missing")
    age = entry.get("max_age_days")
    if age is not None and (not isinstance(age, int) or isinstance(age, bool)):
        raise ValueError(f"{where}: max_age_days is a number")
    return AptSource(
        name=words["name"] or "",
        uri=words["uri"] or "",
        suite=words["suite"] or "",
        keyring=folder / (words["keyring"] or ""),
        components=texts_of(entry, "components", where) or ("main",),
        architecture=words["architecture"] or "arm64",
        signed_by=tuple(item.replace(" ", "").upper() for item in texts_of(entry, "signed_by", where)),
        origin=words["origin"],
        max_age_days=age,
        release_sha256=words["release_sha256"],
    )


def _rule(entry: Any, where: str) -> FollowRule:
    expect_keys(entry, _FOLLOW_KEYS, where)
    words = {key: text_of(entry, key, where) for key in ("name", "source", "package", "approve", "supersede")}
    for key in ("source", "package"):
        if words[key] is None:
            raise ValueError(f"{where}: {key} is missing")
    return FollowRule(
        name=words["name"] or words["package"] or "",
        source=words["source"] or "",
        package=words["package"] or "",
        patterns=texts_of(entry, "match", where),
        roles=roles_of(entry, where),
        versions=texts_of(entry, "versions", where),
        approve=_consent(words["approve"], Consent.ASK, where, "approve"),
        supersede=_consent(words["supersede"], Consent.NEVER, where, "supersede"),
    )


def _consent(value: str | None, usual: Consent, where: str, key: str) -> Consent:
    if value is None:
        return usual
    if value not in {consent.value for consent in Consent}:
        raise ValueError(f"{where}: {key} is one of {', '.join(Consent)}")
    return Consent(value)
