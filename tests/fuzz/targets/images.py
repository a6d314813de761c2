"""Files of administrators: images, programs, documents about images, RMM operations."""

import gzip
import json
import struct
from collections.abc import Iterable
from hashlib import sha256

from kbs_rim.errors import InvalidDocument, MalformedEvidence
from kbs_rim.evidence import strict_json
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.limits import KIB, MIB, Limits
from kbs_rim.measurement.image import ImageMeasurements, measure_image, measure_stream
from kbs_rim.measurement.operations_file import parse_operations_file
from kbs_rim.measurement.rmm import replay_operations
from kbs_rim.measurement.uki import STUB_ORDER
from tests.fuzz.examination import Target, require
from tests.fuzz.vectors import VECTORS, device_trees, files

IMAGE_LIMITS = Limits(image_bytes=MIB, gunzip_bytes=256 * KIB)
OPERATIONS_LIMITS = Limits(operations=500)
_DOCUMENT_ITEMS = 100_000
_MAGIC_AT = 56
_CHUNK = 1000


def check_image(data: bytes) -> object:
    """The first byte chooses: 0 the bytes themselves, 1 gzip of them, 2 gzip of them as an arm64 Image.

    Measured in one piece or in many, an image is the same; its document is read back.
    """
    mode, content = (data[0] % 3 if data else 0), data[1:]
    if mode == 2:
        content = content[:_MAGIC_AT].ljust(_MAGIC_AT, b"\0") + b"ARMd" + content[_MAGIC_AT:].ljust(4, b"\0")
    return _measured(gzip.compress(content, 1, mtime=0) if mode else content)


def _measured(file: bytes) -> object:
    measured = measure_image(file, IMAGE_LIMITS)
    pieces = (file[at : at + _CHUNK] for at in range(0, len(file), _CHUNK))
    require(measure_stream(pieces, len(file), IMAGE_LIMITS) == measured, "pieces change nothing")
    require(measured.file_digests[HashAlgorithm.SHA256] == sha256(file).digest(), "the file's digest is its digest")
    document = json.loads(json.dumps(measured.to_document()))
    require(ImageMeasurements.from_document(document, IMAGE_LIMITS) == measured, "an image's document is read back")
    return document


def image_seeds() -> Iterable[bytes]:
    """Kernels, packed kernels, trees, blobs."""
    yield from (b"\0" + data for data in files("vmm/images/*", "logs/synthetic/images/*"))
    yield from (b"\0" + data for data in device_trees()[:4])
    kernel = files("vmm/images/linux.bin")[0]
    yield from (b"\0" + composed_program(data) for data in tuple(program_seeds())[:6])
    yield from (b"\1" + kernel, b"\2" + kernel, b"\2" + bytes(20000))
    yield b"\0" + gzip.compress(kernel, mtime=0)[:-6] + b"xxxxxx"


# --- programs and firmware --------------------------------------------------------------------------------------------

_PE_AT, _HEADERS_SIZE, _FILE_ALIGNMENT = 0x80, 0x600, 0x200
_SECTION_FIELDS = struct.Struct("<BHHH")
_NAMES = (*STUB_ORDER, ".sdmagic", ".text", "", ".linux\xff")
_SIGNED, _SHORT_DIRECTORY, _KERNEL, _PE32, _VOLUME = 1, 2, 4, 8, 16


def check_program(data: bytes) -> object:
    """The input is flags, then sections of a PE file; its headers are always right, so that mutations reach what is measured."""
    return _measured(composed_volume(data) if data[:1] and data[0] & _VOLUME else composed_program(data))


def composed_program(data: bytes) -> bytes:
    """Return a PE file: a byte of flags, then for each section its name, its sizes in memory and in the file, and its content."""
    flags, at = (data[0] if data else 0), 1
    table, contents = b"", b""
    while at < len(data) and len(table) < 24 * 40:
        name, virtual, raw, size = _SECTION_FIELDS.unpack(data[at : at + _SECTION_FIELDS.size].ljust(_SECTION_FIELDS.size, b"\0"))
        at += _SECTION_FIELDS.size
        content = data[at : at + size]
        at += len(content)
        raw = max(raw % 0x2000, len(content))
        place = _HEADERS_SIZE + len(contents)
        label = _NAMES[name % len(_NAMES)].encode("latin-1")
        table += struct.pack("<8sIIII16x", label, virtual, 0x1000, raw, place if raw else 0)
        contents += content.ljust(-(-raw // _FILE_ALIGNMENT) * _FILE_ALIGNMENT, b"\0")
    certificates = bytes(8) * 3 if flags & _SIGNED else b""
    directories, magic, first = (4, 0x20B, 112) if flags & _SHORT_DIRECTORY else (16, 0x20B, 112)
    if flags & _PE32:
        magic, first = 0x10B, 96
    entries = b"".join(
        struct.pack("<II", _HEADERS_SIZE + len(contents), len(certificates)) if number == 4 and certificates else bytes(8)
        for number in range(directories)
    )
    optional = bytearray(first + 8 * directories)
    struct.pack_into("<H", optional, 0, magic)
    struct.pack_into("<I", optional, 60, _HEADERS_SIZE)
    struct.pack_into("<I", optional, first - 4, directories)
    optional[first:] = entries
    head = (b"MZ".ljust(56, b"\0") + (b"ARMd" if flags & _KERNEL else bytes(4)) + struct.pack("<I", _PE_AT)).ljust(_PE_AT, b"\0")
    coff = struct.pack("<4sHH12xHH", b"PE\0\0", 0xAA64, len(table) // 40, len(optional), 0x22)
    return (head + coff + bytes(optional) + table).ljust(_HEADERS_SIZE, b"\0") + contents + certificates


def composed_volume(data: bytes) -> bytes:
    """Return a firmware file: pages of code, then up to 16 volumes whose headers add up to zero."""
    file = bytes(4096 * (data[1] % 4 if len(data) > 1 else 0))
    for at in range(2, min(len(data), 2 + 8 * 16), 8):
        size, header_size = struct.unpack("<IB", data[at : at + 5].ljust(5, b"\0"))
        header = bytearray(max(56, 2 * (header_size % 64)))
        struct.pack_into("<32xQ4s4xH5xB", header, 0, size % 0x8000, b"_FVH", len(header), 2)
        words = sum(word for (word,) in struct.iter_unpack("<H", header))
        struct.pack_into("<H", header, 50, -words % 0x10000)
        file += bytes(header).ljust(max(len(header), size % 0x8000), b"\xff").ljust(-(-len(header) // 4096) * 4096, b"\xff")
    return file or b"\0"


def program_seeds() -> Iterable[bytes]:
    """A boot loader, a UKI with profiles, an addon; signed, short, as a kernel, of 32 bits; firmware."""

    def section(name: str, content: bytes, virtual: int | None = None, raw: int = 0) -> bytes:
        return _SECTION_FIELDS.pack(_NAMES.index(name), len(content) if virtual is None else virtual, raw, len(content)) + content

    loader = section(".text", b"code") + section(".sdmagic", b"#### LoaderInfo: systemd-boot 257 ####")
    kernel = section(".linux", b"kernel") + section(".initrd", b"initrd", raw=600) + section(".cmdline", b"console=ttyAMA0\0")
    stub = section(".sdmagic", b"#### LoaderInfo: systemd-stub 257 ####")
    profiles = section(".profile", b"ID=a\n") + section(".cmdline", b"x") + section(".profile", b"ID=b\n") + section(".dtbauto", b"tree")
    for flags in (0, _SIGNED, _SHORT_DIRECTORY, _KERNEL, _PE32):
        yield bytes([flags]) + loader
        yield bytes([flags]) + stub + kernel + section(".osrel", b"ID=debian\n", virtual=3000) + section(".ucode", b"u") + profiles
        yield bytes([flags]) + section(".cmdline", b"\xff\xfe") + section(".uname", b"6.1")
    yield bytes([_VOLUME, 1]) + struct.pack("<IB3x", 8192, 36) + struct.pack("<IB3x", 100, 28)


# --- documents --------------------------------------------------------------------------------------------------------


def check_image_document(data: bytes) -> object:
    """A document that is accepted is the one that we would have written."""
    document = strict_json.decode(data, max_items=_DOCUMENT_ITEMS)
    partial = ImageMeasurements.from_document(document, partial=True)
    require(partial.to_document() == document, "an image has one document")
    whole = ImageMeasurements.from_document(document)
    require(whole == partial, "a whole document is a partial one too")
    return whole.image_id, whole.kind, whole.size


def document_seeds() -> Iterable[bytes]:
    """Documents of one image of each kind, small enough to be mutated often."""
    programs = [composed_program(data) for data in tuple(program_seeds())[:3]]
    for data in (b"blob", *files("vmm/images/linux.bin*"), device_trees()[0], bytes(4093), *programs):
        document = measure_image(data).to_document()
        yield strict_json.encode(document)
        yield strict_json.encode({**document, "granules": {"sha256": document["granules"]["sha256"]}})


def check_operations_file(data: bytes) -> object:
    """Every case of a file that is accepted has a RIM."""
    parsed = parse_operations_file(data, OPERATIONS_LIMITS)
    rims = [replay_operations(parsed.rmm, case.operations) for case in parsed.cases]
    stated = [case.rim for case in parsed.cases]
    require(all(known is None or len(known) == len(rim) for known, rim in zip(stated, rims, strict=True)), "RIMs have their length")
    return parsed, rims


def operations_seeds() -> Iterable[bytes]:
    """Each case of the vectors in a file of its own."""
    for path in sorted((VECTORS / "rim").glob("*.json")):
        whole = json.loads(path.read_bytes())
        for case in whole["cases"][::6]:
            few = {**case, "operations": case["operations"][:6]}
            yield json.dumps({**whole, "cases": [few]}).encode()
    yield b'{"rmm":"1.0","cases":[{"note":"\\u001b[2J","operations":[]}]}'
    yield b'{"rmm":"2.0","cases":[{"operations":[' + b"9" * 4301 + b"]}]}"


TARGETS = (
    Target(name="image", check=check_image, seeds=image_seeds, max_bytes=16 * 1024, cpu_ms=100, cpu_ms_per_kib=100),
    Target(name="program", check=check_program, seeds=program_seeds, cpu_ms=100, cpu_ms_per_kib=100),
    Target(
        name="image_document",
        check=check_image_document,
        seeds=document_seeds,
        refusals=(InvalidDocument, MalformedEvidence),
        words=(b'"0x', b'"sha256"', b"null", b'"start"'),
        max_bytes=8192,
    ),
    Target(
        name="operations_file",
        check=check_operations_file,
        seeds=operations_seeds,
        refusals=(InvalidDocument,),
        words=(b'"op":', b'"realm_create"', b'"page_seed":', b"4096", b'"note":"', b"\\u001b"),
        max_bytes=8192,
        cpu_ms_per_kib=40,
    ),
)
