"""Sources of images: packages, archives, release files and indexes, container layouts, and the administrator's own lists."""

import atexit
import contextlib
import functools
import gzip
import hashlib
import io
import json
import shutil
import tarfile
import tempfile
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from kbs_rim.errors import InvalidDocument, MalformedEvidence, RefusedSource
from kbs_rim.image_sources.byte_streams import read_up_to
from kbs_rim.image_sources.control_fields import parse_stanza, stanzas_of
from kbs_rim.image_sources.deb_package import DebPackage, PackageFacts
from kbs_rim.image_sources.debian_version import DebianVersion
from kbs_rim.image_sources.decompression import Unpacked, packing_of
from kbs_rim.image_sources.finder import ImageFinder, Selection
from kbs_rim.image_sources.follow_state import Action, FollowState, Proposal, ProposedImage, parse_state, state_bytes
from kbs_rim.image_sources.oci_layout import OciLayout
from kbs_rim.image_sources.origins import images_of_package
from kbs_rim.image_sources.release_file import parse_release
from kbs_rim.image_sources.requests import parse_manifest
from kbs_rim.image_sources.source_limits import SourceLimits
from kbs_rim.image_sources.sources_file import parse_sources
from kbs_rim.image_sources.tar_stream import TarKind, tar_members
from kbs_rim.limits import KIB, MIB, Limits
from tests.fuzz.examination import Target, require
from tests.package_forge import NOW, Layout, Package, ar_bytes, arm64_kernel, initrd, tar_bytes

LIMITS = SourceLimits(unpacked_bytes=MIB, files=200, decompressor_bytes=16 * MIB, documents=8)
IMAGE_LIMITS = Limits(image_bytes=MIB, gunzip_bytes=256 * KIB)
_KERNEL = arm64_kernel(600)
_CONTROL = tar_bytes([("./control", b"Package: p\nVersion: 1\nArchitecture: arm64\n")])
_END = bytes(1024)

# --- archives ---------------------------------------------------------------------------------------------------------


def check_tar(data: bytes) -> object:
    """The first byte chooses: 0 the bytes themselves, 1 with checksums put right and an end. Python's tarfile sees the same files."""
    content = _mended(data[1:]) if data and data[0] % 2 else data[1:]
    found = [(m.path, m.kind, m.size, m.offset, read_up_to(m.content, m.size)) for m in tar_members(io.BytesIO(content), LIMITS)]
    require(not any(path.startswith(("/", "../")) or "/../" in path for path, *_ in found), "no name leads out of the archive")
    ours = [(offset, body) for _, kind, _, offset, body in found if kind is TarKind.FILE]
    with contextlib.suppress(tarfile.TarError, ValueError, OverflowError), tarfile.open(fileobj=io.BytesIO(content)) as tar:
        theirs = [(info.offset_data, read_up_to(tar.extractfile(info) or io.BytesIO(), info.size)) for info in tar if info.isreg()]
        require(ours == theirs, "two readers of tar see the same files")
    return found


def _mended(data: bytes) -> bytes:
    """Put the checksum of each header right that is one by its magic, so that mutations reach what lies behind the check."""
    blocks = [bytearray(data[at : at + 512].ljust(512, b"\0")) for at in range(0, len(data), 512)]
    for block in blocks:
        if block[257:262] == b"ustar":
            block[148:156] = b" " * 8
            block[148:156] = b"%06o\0 " % sum(block)
    return b"".join(blocks) + _END


def tar_seeds() -> Iterable[bytes]:
    """Honest archives in each form, and what is refused."""
    entries = [("./", b""), ("./boot/vmlinuz", _KERNEL), ("./boot/link", "vmlinuz"), ("./hard", "=./boot/vmlinuz"), ("x" * 150, b"y")]
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        data = tar_bytes(entries, form=form)
        yield b"\0" + data
        yield b"\1" + data
    yield b"\1" + tar_bytes([("a", b"1"), ("a", b"2")])
    yield b"\1" + tar_bytes([("../a", b"1")])


def check_deb(data: bytes) -> object:
    """The first byte chooses: 0 a whole package; 1 and 2 its data, bare and gzip'd; 3 its control file."""
    mode, content = (data[0] % 4 if data else 0), data[1:]
    if mode:
        control = tar_bytes([("./control", content)]) if mode == 3 else _CONTROL
        body = tar_bytes([("./boot/vmlinuz", _KERNEL)]) if mode == 3 else _mended(content)
        packed = ("data.tar.gz", gzip.compress(body, 1, mtime=0)) if mode == 2 else ("data.tar", body)
        content = ar_bytes((("debian-binary", b"2.0\n"), ("control.tar", control), packed))
    package = DebPackage(io.BytesIO(content), LIMITS)
    names = [member.path for _, member in package.files()]
    require(package.finish() == (hashlib.sha256(content).hexdigest(), len(content)), "a package's digest is that of all its bytes")
    finder = ImageFinder(Selection(everything=True), IMAGE_LIMITS, LIMITS)
    images = images_of_package(io.BytesIO(content), finder)
    return package.facts, names, [(image.name, dict(image.provenance)) for image in images]


def deb_seeds() -> Iterable[bytes]:
    """Whole packages, and their parts."""
    files = (("./boot/vmlinuz", _KERNEL), ("./boot/initrd.img", initrd()))
    for packing in ("", "gz"):
        yield b"\0" + Package("p", "1", files, packing=packing).deb
    yield b"\1" + tar_bytes(files)
    yield b"\2" + tar_bytes([("./boot/vmlinuz", _KERNEL)])
    yield b"\3Package: p\nVersion: 1:2-3~x\nArchitecture: all\nDescription: a\n b\n"


def check_stream(data: bytes) -> object:
    """Read in large and in small pieces, a compressed stream is the same, and never more than it may be."""
    packing = packing_of(data)
    whole = read_up_to(Unpacked(io.BytesIO(data), packing, LIMITS), 2 * MIB)
    require(len(whole) <= LIMITS.unpacked_bytes, "the budget holds")
    slow = Unpacked(io.BytesIO(data), packing, LIMITS)
    pieces = []
    while piece := slow.read(7000):
        pieces.append(piece)
    require(b"".join(pieces) == whole, "pieces change nothing")
    return packing, hashlib.sha256(whole).hexdigest()


def stream_seeds() -> Iterable[bytes]:
    """Each packing, one stream and two."""
    from tests.package_forge import PACKERS

    for name, pack in PACKERS.items():
        if name:
            yield pack(b"content " * 40)
            yield pack(b"first") + pack(b"second")
            yield pack(b"content " * 40)[:-3]
    yield b"plain"


# --- repositories -----------------------------------------------------------------------------------------------------


def check_release(data: bytes) -> object:
    """What is accepted names only files below its folder."""
    release = parse_release(data)
    require(not any(path.startswith("/") or ".." in path.split("/") for path in release.files), "no path leads out")
    return release


def release_seeds() -> Iterable[bytes]:
    """Release files of one index."""
    head = "Origin: Debian\nSuite: oldstable\nCodename: bookworm\nDate: Sat, 11 Jul 2026 10:16:37 UTC\nAcquire-By-Hash: yes\n"
    more = "Architectures: all arm64\nComponents: main\nDescription: a\n b\n"
    files = f"SHA256:\n {'a' * 64} 123 main/binary-arm64/Packages\n {'b' * 64}      99 main/binary-arm64/Packages.xz\n"
    yield (head + more + files).encode()
    yield (head + "Valid-Until: Sat, 18 Jul 2026 10:16:37 UTC\n" + files).encode()
    yield (head + "SHA256:\n" + f" {'a' * 64} 1 ../../x\n").encode()
    yield b"Date: x\nSHA256:\n"
    yield head.encode()


def check_index(data: bytes) -> object:
    """Stanzas are found where they begin, and versions have an order."""
    seen = []
    for stanza in stanzas_of(data, "p"):
        facts = PackageFacts.from_fields(parse_stanza(stanza, "source.index"))
        require(facts.package == "p", "a stanza is of the package that was asked for")
        seen.append((facts, DebianVersion(facts.version)))
    for (_, one), (_, other) in pairwise(seen):
        require((one < other) + (other < one) + (one == other) == 1, "of two versions one is older, or they are equal")
    require(sorted(v.text for _, v in seen) == sorted(v.text for v in sorted(v for _, v in seen)), "sorting loses nothing")
    return [(facts, version.text) for facts, version in seen]


def index_seeds() -> Iterable[bytes]:
    """Indexes of a few packages."""
    for versions in (("1",), ("1", "1:0~rc1-2", "1.0+b1"), ("0~~", "0~", "0")):
        yield "\n".join(f"Package: p\nVersion: {version}\nArchitecture: arm64\n" for version in versions).encode()
    yield b"Package: q\nDescription: x\n Package: p\n\nPackage: p\nVersion: 1\nArchitecture: all\nVersion: 2\n"


# --- container layouts ------------------------------------------------------------------------------------------------


@functools.cache
def _layout() -> tuple[Layout, str, bytes]:
    folder = Path(tempfile.mkdtemp(prefix="kbs-rim-fuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    layout = Layout(folder, [tar_bytes([("boot/vmlinuz", _KERNEL)])], packing="")
    digest = layout.write()
    return layout, digest, (layout.folder / "index.json").read_bytes()


def check_layout(data: bytes) -> object:
    """The first byte chooses: 0 the index, 1 the manifest, 2 the layer, 3 the configuration; what is above it names it rightly."""
    layout, digest, index = _layout()
    mode, content = (data[0] % 4 if data else 0), data[1:]
    blobs = layout.folder / "blobs" / "sha256"
    manifest = json.loads((blobs / digest[7:]).read_bytes())
    made: list[Path] = []

    def put(blob: bytes) -> dict[str, object]:
        path = blobs / hashlib.sha256(blob).hexdigest()
        if not path.exists():
            path.write_bytes(blob)
            made.append(path)
        return {"digest": f"sha256:{path.name}", "size": len(blob)}

    if mode == 2:
        layer = _mended(content)
        config = {"architecture": "arm64", "rootfs": {"diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]}}
        manifest["layers"][0] |= put(layer)
        manifest["config"] |= put(json.dumps(config).encode())
    elif mode == 3:
        manifest["config"] |= put(content)
    if mode:
        whole = json.loads(index)
        whole["manifests"][0] |= put(content if mode == 1 else json.dumps(manifest).encode())
        content = json.dumps(whole).encode()
    (layout.folder / "index.json").write_bytes(content)
    try:
        found = OciLayout(layout.folder, LIMITS).images(ImageFinder(Selection(everything=True), IMAGE_LIMITS, LIMITS))
        return [(image.name, dict(image.provenance)) for image in found]
    finally:
        for path in made:
            path.unlink()


def layout_seeds() -> Iterable[bytes]:
    """The parts of a good layout."""
    layout, digest, index = _layout()
    manifest = (layout.folder / "blobs" / "sha256" / digest[7:]).read_bytes()
    config = (layout.folder / "blobs" / "sha256" / json.loads(manifest)["config"]["digest"][7:]).read_bytes()
    yield b"\0" + index
    yield b"\1" + manifest
    yield b"\2" + layout.layers[0]
    yield b"\2" + tar_bytes([("a/.wh.b", b""), ("a/.wh..wh..opq", b""), ("boot/vmlinuz", _KERNEL)])
    yield b"\3" + config


# --- the administrator's own ------------------------------------------------------------------------------------------


def check_lists(data: bytes) -> object:
    """The first byte chooses: 0 a manifest, 1 a list of sources, 2 the file of proposals, which is read back as it is written."""
    mode, content = (data[0] % 3 if data else 0), data[1:]
    if mode == 0:
        return parse_manifest(content, Path("/"), LIMITS)
    if mode == 1:
        return parse_sources(content, Path("/"), LIMITS)
    state = parse_state(content)
    require(parse_state(state_bytes(state)) == state, "the file of proposals is read back")
    return state


def list_seeds() -> Iterable[bytes]:
    """One of each."""
    yield b'\0[[image]]\napt = "p=1"\nmatch = ["/boot/*"]\nroles = ["kernel"]\n'
    yield b'\0[[image]]\nfile = "a"\nname = "b"\nprovenance = { c = "d" }\n'
    yield b'\1[[apt]]\nname = "d"\nuri = "http://d"\nsuite = "s"\nkeyring = "k"\n[[follow]]\nsource = "d"\npackage = "p"\n'
    proposal = Proposal(
        action=Action.REGISTER,
        rule="r",
        source="s",
        package="p",
        version="1",
        package_sha256="0",
        images=(ProposedImage("i", "n"),),
        proposed_at=NOW,
    )
    yield b"\2" + state_bytes(FollowState({"s": NOW}, {proposal.id: proposal}, {"0" * 12: "rejected"}, {"r": "x"}, {"r": proposal.images}))


_TAR_WORDS = (b"ustar  \0", b"ustar\x0000", b"./", b"../", b"17 path=../boot/x\n", b"GNU.sparse.major")

TARGETS = (
    Target(name="tar", check=check_tar, seeds=tar_seeds, refusals=(RefusedSource,), words=_TAR_WORDS, max_bytes=16 * KIB),
    Target(
        name="deb",
        check=check_deb,
        seeds=deb_seeds,
        refusals=(RefusedSource, MalformedEvidence),
        words=(b"data.tar.xz", b"`\n", b"!<arch>\n", *_TAR_WORDS),
        max_bytes=16 * KIB,
        cpu_ms=100,
        cpu_ms_per_kib=40,
    ),
    Target(name="compressed_stream", check=check_stream, seeds=stream_seeds, refusals=(RefusedSource,), cpu_ms=300, cpu_ms_per_kib=60),
    Target(name="release", check=check_release, seeds=release_seeds, refusals=(RefusedSource,), words=(b"SHA256:", b"Date: ", b"\n ")),
    Target(
        name="package_index", check=check_index, seeds=index_seeds, refusals=(RefusedSource,), words=(b"\n\nPackage: p\n", b"Version: ")
    ),
    Target(
        name="container_layout",
        check=check_layout,
        seeds=layout_seeds,
        refusals=(RefusedSource, MalformedEvidence),
        words=(b'"manifests"', b'"digest"', b'"layers"', b"sha256:", b".wh."),
        max_bytes=16 * KIB,
        cpu_ms=200,
        cpu_ms_per_kib=40,
    ),
    Target(
        name="source_lists", check=check_lists, seeds=list_seeds, refusals=(InvalidDocument,), words=(b"[[image]]", b"[[apt]]", b' = "')
    ),
)
