"""What an administrator asks for: one image, or what a package, folder or layout holds; on the command line or in a manifest.

A manifest is TOML, for instance::

    [[image]]
    apt = "qemu-efi-aarch64=2022.11-6+deb12u2"
    source = "debian"
    match = ["*/QEMU_EFI.fd"]

    [[image]]
    file = "vm.dtb"
    name = "device tree of web"
    roles = ["device-tree"]
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from kbs_rim.appraisal.workload import Role
from kbs_rim.errors import InvalidDocument
from kbs_rim.image_sources.source_limits import SourceLimits

_IMAGE_ID = re.compile(r"sha256:[0-9a-f]{64}")
_CHECKED = frozenset({
    "approved", "corim", "corim-signer", "index", "index-sha256", "keyring-sha256", "manifest-digest", "proposal", "release-date",
    "release-form", "release-sha256", "signed-by", "vouched-for",
})  # fmt: skip
"""Words of provenance that say what was checked: only who checked it may write them."""
_READ = frozenset({
    "also", "container", "file", "file-sha256", "folder", "offset", "origin", "package", "package-architecture", "package-file",
    "package-sha256", "package-version", "reference", "repository", "suite", "via",
})  # fmt: skip
"""Words that say what was read in a source; of a file by itself nothing is read but its bytes."""
_COMMON_KEYS = frozenset({"roles", "match", "name", "provenance", "image_id"})


class RequestKind(StrEnum):
    """What is read. The values are the keys of a manifest."""

    FILE = "file"
    DEB = "deb"
    APT = "apt"
    DIR = "dir"
    OCI = "oci_layout"


_KEYS = {
    RequestKind.FILE: _COMMON_KEYS,
    RequestKind.DEB: _COMMON_KEYS | {"source", "unsigned"},
    RequestKind.APT: _COMMON_KEYS | {"source"},
    RequestKind.DIR: _COMMON_KEYS,
    RequestKind.OCI: _COMMON_KEYS | {"ref", "digest"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRequest:
    """One thing to take. ``value`` is a path, or NAME[=VERSION] of a package; what is not given is found out.

    ``image_id`` is what must come out of it. ``unsigned`` takes a package that nobody vouches for. Raises ``InvalidDocument``.
    """

    kind: RequestKind
    value: str
    name: str | None = None
    roles: tuple[Role, ...] = ()
    patterns: tuple[str, ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
    source: str | None = None
    unsigned: bool = False
    reference: str | None = None
    digest: str | None = None
    image_id: str | None = None

    def __post_init__(self) -> None:
        if not self.value:
            raise InvalidDocument("document.sources", f"{self.kind} is empty")
        if self.image_id is not None and not _IMAGE_ID.fullmatch(self.image_id):
            raise InvalidDocument("document.sources", "image_id is sha256: and 64 hexadecimal digits", seen=self.image_id[:100])
        if self.digest is not None and not _IMAGE_ID.fullmatch(self.digest):
            raise InvalidDocument("document.sources", "digest is sha256: and 64 hexadecimal digits", seen=self.digest[:100])
        ours = _CHECKED if self.kind is RequestKind.FILE else _CHECKED | _READ
        if taken := sorted(ours & self.provenance.keys()):
            message = f"provenance: {taken[0]} says what was checked or read here, and nobody's own words: choose another name"
            raise InvalidDocument("document.sources", message, seen=taken[0])

    @property
    def package(self) -> tuple[str, str | None]:
        """Name and version of the package that is asked for."""
        name, equals, version = self.value.partition("=")
        return name, version if equals else None


def parse_manifest(data: bytes, folder: Path, limits: SourceLimits) -> tuple[ImageRequest, ...]:
    """Read a manifest; paths in it are relative to ``folder``. Raises ``InvalidDocument`` (``document.sources``)."""
    document = read_toml(data, limits)
    expect_keys(document, {"image"}, "the manifest")
    entries = document.get("image")
    if not isinstance(entries, list) or not 0 < len(entries) <= limits.images:
        raise InvalidDocument("document.sources", "the manifest has no [[image]]", expected=f"1 to {limits.images}")
    return tuple(_request(entry, folder, f"image {number}") for number, entry in enumerate(entries, 1))


def _request(entry: Any, folder: Path, where: str) -> ImageRequest:
    kinds = [kind for kind in RequestKind if kind.value in entry]
    if len(kinds) != 1:
        raise InvalidDocument("document.sources", f"{where} has exactly one of {', '.join(RequestKind)}")
    kind = kinds[0]
    expect_keys(entry, {kind.value, *_KEYS[kind]}, where)
    value = text_of(entry, kind.value, where) or ""
    unsigned = entry.get("unsigned", False)
    if not isinstance(unsigned, bool):
        raise InvalidDocument("document.sources", f"{where}: unsigned is true or false")
    return ImageRequest(
        kind=kind,
        value=value if kind is RequestKind.APT or not value else str(folder / value),
        name=text_of(entry, "name", where),
        roles=roles_of(entry, where),
        patterns=texts_of(entry, "match", where),
        provenance=_words(entry.get("provenance", {}), where),
        source=text_of(entry, "source", where),
        unsigned=unsigned,
        reference=text_of(entry, "ref", where),
        digest=text_of(entry, "digest", where),
        image_id=text_of(entry, "image_id", where),
    )


# --- reading TOML -----------------------------------------------------------------------------------------------------


def read_toml(data: bytes, limits: SourceLimits) -> dict[str, Any]:
    """Raises ``InvalidDocument`` (``document.sources``)."""
    if len(data) > limits.document_bytes:
        raise InvalidDocument("document.sources", "the file is too large", expected=f"at most {limits.document_bytes} bytes")
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidDocument("document.sources", f"the file is no TOML: {error}") from None


def expect_keys(entry: Any, known: set[str], where: str) -> None:
    """Raises ``InvalidDocument`` if ``entry`` is no table, or has a key that is not read."""
    if not isinstance(entry, dict):
        raise InvalidDocument("document.sources", f"{where} is no table")
    if unknown := sorted(set(entry) - known):
        raise InvalidDocument(
            "document.sources", f"{where} has unknown keys: {', '.join(unknown)}", expected=f"some of {', '.join(sorted(known))}"
        )


def text_of(entry: Mapping[str, Any], key: str, where: str) -> str | None:
    """Return a text, None if it is not there."""
    value = entry.get(key)
    if value is not None and not (isinstance(value, str) and value and value.isprintable()):
        raise InvalidDocument("document.sources", f"{where}: {key} is printable text")
    return value


def texts_of(entry: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    """Return a list of texts, empty if it is not there."""
    value = entry.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) and item and item.isprintable() for item in value):
        raise InvalidDocument("document.sources", f"{where}: {key} is a list of printable texts")
    return tuple(value)


def roles_of(entry: Mapping[str, Any], where: str) -> tuple[Role, ...]:
    """Return the roles that are listed."""
    return known_roles(texts_of(entry, "roles", where), where)


def known_roles(names: Sequence[str], where: str) -> tuple[Role, ...]:
    """Raises ``InvalidDocument`` for a role that there is not."""
    known = {role.value: role for role in Role}
    if unknown := [name for name in names if name not in known]:
        raise InvalidDocument("document.sources", f"{where}: there is no role {unknown[0]}", expected=", ".join(known))
    return tuple(dict.fromkeys(known[name] for name in names))


def _words(value: Any, where: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) and item.isprintable() for item in value.values()):
        raise InvalidDocument("document.sources", f"{where}: provenance is a table of printable texts")
    return value
