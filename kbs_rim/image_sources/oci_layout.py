"""Container images in an OCI image layout (OCI image-spec 1.1): index, manifest, layers; every blob held against its digest.

Layers lie on each other: a later one hides what an earlier one has under the same path, by a whiteout (``.wh.NAME``), or by an opaque
folder (``.wh..wh..opq``). Only what is visible in the end is an image. Paths are taken as they are written: a layer that writes
through a link of an earlier one is seen under both names.
"""

import os
import posixpath
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from kbs_rim.errors import RefusedSource, TheirFault
from kbs_rim.evidence import strict_json
from kbs_rim.image_sources.byte_streams import HashingReader
from kbs_rim.image_sources.decompression import Packing, Unpacked
from kbs_rim.image_sources.finder import ImageFinder
from kbs_rim.image_sources.origins import SourcedImage, sourced, take_member
from kbs_rim.image_sources.source_limits import SourceLimits
from kbs_rim.image_sources.tar_stream import TarKind, TarMember, tar_members

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_JSON_DEPTH, _JSON_ITEMS = 16, 100_000
_REFERENCE = "org.opencontainers.image.ref.name"
_INDEX_TYPES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
_MANIFEST_TYPES = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
_LAYER = re.compile(
    r"application/vnd\.(?:oci\.image\.layer(?:\.nondistributable)?\.v1|docker\.image\.rootfs\.diff)\.tar(?:[.+](gzip|zstd))?"
)
_PACKINGS = {None: Packing.NONE, "gzip": Packing.GZIP, "zstd": Packing.ZSTD}
_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"
_MARKS, _ITSELF, _INSIDE = "/", "s", "i"
"""Key of a node for what is hidden of it, which no name can be; the path itself, and everything in it."""


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What the layout says of a blob. Raises ``RefusedSource`` (``source.oci``)."""

    media_type: str
    digest: str
    size: int
    platform: Mapping[str, Any]
    reference: str | None

    @classmethod
    def from_document(cls, value: Any) -> "Descriptor":
        """Read a descriptor (OCI image-spec 1.1, descriptor.md)."""
        found = _object(value, "a descriptor")
        digest, size = found.get("digest"), found.get("size")
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            raise RefusedSource("source.oci", "a descriptor has no SHA-256 digest", seen=str(digest)[:100])
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise RefusedSource("source.oci", "a descriptor has no size", seen=str(size)[:100])
        platform, notes = found.get("platform") or {}, found.get("annotations") or {}
        reference = _object(notes, "annotations").get(_REFERENCE)
        media_type = found.get("mediaType", "")
        return cls(str(media_type), digest, size, _object(platform, "a platform"), None if reference is None else str(reference))


@dataclass(slots=True)
class _Layer:
    """What one layer does to those below it."""

    files: set[str] = field(default_factory=set)
    folders: set[str] = field(default_factory=set)
    removed: set[str] = field(default_factory=set)
    emptied: set[str] = field(default_factory=set)

    def note(self, member: TarMember) -> bool:
        """Take a member in; return whether it is something by itself and no whiteout."""
        folder, name = posixpath.split(f"/{member.path}")
        if name == _OPAQUE:
            self.emptied.add(folder)
        elif name.startswith(_WHITEOUT):
            self.removed.add(posixpath.join(folder, name.removeprefix(_WHITEOUT)))
        elif member.kind is TarKind.FOLDER:
            self.folders.add(f"/{member.path}")
        else:
            self.files.add(f"/{member.path}")
            return True
        return False

    def hider(self) -> Callable[[str], bool]:
        """Return what tells whether a path of a lower layer is not to be seen any more.

        A path is followed through a tree of names, folder by folder: names of thousands of folders cost no more than their length.
        """
        tree: dict[str, Any] = {}
        for path, what in (
            *((path, _ITSELF) for path in self.folders),
            *((path, _INSIDE) for path in self.emptied),
            *((path, _ITSELF + _INSIDE) for path in (*self.files, *self.removed)),
        ):
            node = tree
            for name in _names(path):
                node = node.setdefault(name, {})
            node[_MARKS] = node.get(_MARKS, "") + what

        def hides(path: str) -> bool:
            node: dict[str, Any] | None = tree
            for name in _names(path):
                if node is None or _INSIDE in node.get(_MARKS, ""):
                    break
                node = node.get(name)
            else:
                return node is not None and _ITSELF in node.get(_MARKS, "")
            return node is not None

        return hides


def _names(path: str) -> list[str]:
    return [name for name in path.split("/") if name]


class OciLayout:
    """Reads one layout. ``digest`` pins the manifest or an index above it; ``reference`` chooses by name, ``architecture`` by platform."""

    def __init__(
        self, folder: Path, limits: SourceLimits, *, architecture: str = "arm64", reference: str | None = None, digest: str | None = None
    ) -> None:
        """Raises ``RefusedSource`` (``source.oci``) if the folder is no layout, ``OSError``."""
        self._folder, self._limits = folder, limits
        self._architecture, self._reference, self._digest = architecture, reference, digest
        self._documents = 0
        version = _object(self._json(self._small_file(folder / "oci-layout")), "oci-layout").get("imageLayoutVersion")
        if not isinstance(version, str) or not version.startswith("1."):
            raise RefusedSource("source.oci", "the layout is of a version that is not known", expected="1.x", seen=str(version)[:40])

    def images(self, finder: ImageFinder) -> tuple[SourcedImage, ...]:
        """Find what boots in the one image that is chosen.

        Raises ``RefusedSource``: ``source.oci``, ``source.oci-digest``, and as archives and ``ImageFinder`` do.
        """
        chosen = self._chosen()
        manifest = self._document(chosen)
        layers = [Descriptor.from_document(item) for item in _list(manifest.get("layers"), "layers", self._limits.layers)]
        configuration = self._document(Descriptor.from_document(manifest.get("config")))
        self._check_platform(configuration)
        unpacked = _list(_object(configuration.get("rootfs"), "rootfs").get("diff_ids"), "diff_ids", self._limits.layers)
        if len(unpacked) != len(layers):
            raise RefusedSource("source.oci", "the configuration lists another number of layers than the manifest")
        budget = self._limits.unpacked_bytes
        for layer, diff_id in zip(layers, unpacked, strict=True):
            budget -= self._read_layer(layer, diff_id, finder, budget)
        origin = {
            "origin": "OCI image layout",
            "manifest-digest": chosen.digest,
            "reference": chosen.reference or "",
            "vouched-for": f"the digest {self._digest}, which was given" if self._digest else "nobody: no signature was checked",
        }
        return sourced(finder.finish(), chosen.reference or f"oci {chosen.digest[7:19]}", origin)

    # --- choosing -----------------------------------------------------------------------------------------------------

    def _chosen(self) -> Descriptor:
        """Walk from the layout's index to one manifest."""
        candidates = self._manifests(self._json(self._small_file(self._folder / "index.json")))
        if self._reference is not None:
            candidates = [item for item in candidates if item.reference == self._reference]
        pinned = self._digest is None
        while True:
            named = [item for item in candidates if item.digest == self._digest]
            if named:
                candidates, pinned = named[:1], True
            fitting = [item for item in candidates if self._fits(item)]
            if len({item.digest for item in fitting}) != 1:
                names = ", ".join(f"{item.reference or '-'} {item.digest}" for item in candidates[:8])
                raise RefusedSource("source.oci", "there is not exactly one image to choose: say --ref or --digest", seen=names or "none")
            chosen = fitting[0]
            if chosen.media_type not in _INDEX_TYPES:
                break
            below = self._manifests(self._document(chosen))
            candidates = [Descriptor(i.media_type, i.digest, i.size, i.platform, i.reference or chosen.reference) for i in below]
        if chosen.media_type not in _MANIFEST_TYPES:
            raise RefusedSource("source.oci", "the layout's entry is no image manifest", seen=chosen.media_type)
        if not pinned:
            raise RefusedSource("source.oci-digest", "the image is not the one that is pinned", expected=self._digest, seen=chosen.digest)
        return chosen

    def _manifests(self, document: Any) -> list[Descriptor]:
        entries = _list(_object(document, "an index").get("manifests"), "manifests", self._limits.documents)
        return [Descriptor.from_document(item) for item in entries]

    def _fits(self, item: Descriptor) -> bool:
        return bool(item.platform.get("architecture", self._architecture) == self._architecture)

    def _check_platform(self, configuration: Mapping[str, Any]) -> None:
        architecture = configuration.get("architecture")
        if architecture != self._architecture:
            raise RefusedSource(
                "source.oci", "the image is for another architecture", expected=self._architecture, seen=str(architecture)[:40]
            )

    # --- blobs --------------------------------------------------------------------------------------------------------

    def _read_layer(self, layer: Descriptor, diff_id: Any, finder: ImageFinder, budget: int) -> int:
        """Take a layer's files, and drop what it hides. Return its size, unpacked."""
        match = _LAYER.fullmatch(layer.media_type)
        if match is None:
            raise RefusedSource("source.oci", "a layer is packed in a way that is not known", seen=layer.media_type[:100])
        effects = _Layer()
        with self._blob(layer.digest) as file:
            packed = HashingReader(file)
            stream = Unpacked(packed, _PACKINGS[match[1]], self._limits, budget)
            whole = HashingReader(stream)
            # A layer cannot hide its own files, whatever the order of its members.
            upper = ImageFinder(finder.selection, finder.limits, finder.source_limits, finder.do, finder.progress)
            for member in tar_members(whole, self._limits):
                if effects.note(member):
                    take_member(upper, member, layer.digest)
            unpacked = f"sha256:{whole.finish()}"
            self._check(layer, packed)
        if unpacked != diff_id:
            raise RefusedSource(
                "source.oci-digest", "an unpacked layer is not what its digest says", expected=str(diff_id)[:100], seen=unpacked
            )
        finder.forget(effects.hider())
        finder.join(upper)
        return whole.size

    def _document(self, descriptor: Descriptor) -> Mapping[str, Any]:
        self._documents += 1
        if self._documents > self._limits.documents or descriptor.size > self._limits.document_bytes:
            raise RefusedSource("source.too-large", "the layout has too many manifests, or one that is too large")
        with self._blob(descriptor.digest) as file:
            reader = HashingReader(file)
            data = reader.read(self._limits.document_bytes)
            self._check(descriptor, reader)
        return _object(self._json(data), "a manifest")

    def _check(self, descriptor: Descriptor, reader: HashingReader) -> None:
        seen = f"sha256:{reader.finish()}"
        if (seen, reader.size) != (descriptor.digest, descriptor.size):
            raise RefusedSource(
                "source.oci-digest",
                "a blob is not what its digest or size says",
                expected=f"{descriptor.digest}, {descriptor.size} bytes",
                seen=seen,
            )

    def _blob(self, digest: str) -> IO[bytes]:
        return _open_regular(self._folder / "blobs" / "sha256" / digest.removeprefix("sha256:"))

    def _small_file(self, path: Path) -> bytes:
        with _open_regular(path) as file:
            return file.read(self._limits.document_bytes + 1)

    def _json(self, data: bytes) -> Any:
        try:
            return strict_json.decode(data, max_bytes=self._limits.document_bytes, max_depth=_JSON_DEPTH, max_items=_JSON_ITEMS)
        except TheirFault as error:
            raise RefusedSource("source.oci", f"a document of the layout is no proper JSON: {error.message}") from None


def _open_regular(path: Path) -> IO[bytes]:
    """Open a file that is no link, and does not make us wait."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise RefusedSource("source.oci", f"the layout has no {path.name}: {error.strerror}") from None
    file = os.fdopen(descriptor, "rb")
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        file.close()
        raise RefusedSource("source.oci", f"{path.name} of the layout is no regular file")
    return file


def _object(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise RefusedSource("source.oci", f"{what} of the layout is no object")
    return value


def _list(value: Any, what: str, most: int) -> list[Any]:
    if not isinstance(value, list) or len(value) > most:
        raise RefusedSource("source.oci", f"{what} of the layout is no list, or too long a one", expected=f"at most {most}")
    return value
