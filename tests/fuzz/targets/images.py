"""Files of administrators: device trees, images, documents about images, RMM operations."""

import gzip
import json
from collections.abc import Iterable
from hashlib import sha256

from kbs_rim.errors import InvalidDocument, MalformedEvidence
from kbs_rim.evidence import strict_json
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.limits import KIB, MIB, Limits
from kbs_rim.measurement.device_tree import facts_of, parse_device_tree
from kbs_rim.measurement.device_tree_writer import write_device_tree
from kbs_rim.measurement.image import ImageMeasurements, measure_image, measure_stream
from kbs_rim.measurement.operations_file import parse_operations_file
from kbs_rim.measurement.rmm import replay_operations
from tests.fuzz.examination import Target, require
from tests.fuzz.vectors import VECTORS, device_trees, files

IMAGE_LIMITS = Limits(image_bytes=MIB, gunzip_bytes=256 * KIB)
OPERATIONS_LIMITS = Limits(operations=500)
_DOCUMENT_ITEMS = 100_000
_MAGIC_AT = 56
_CHUNK = 1000


def check_device_tree(data: bytes) -> object:
    """A tree that our writer can write is read back; the facts are read or refused."""
    tree = parse_device_tree(data)
    require(tree.total_size <= len(data), "a tree lies within the data")
    try:
        written = write_device_tree(tree.root)
    except ValueError:
        pass  # the writer is as strict as vm-fdt, which refuses names that the specification allows
    else:
        require(parse_device_tree(written).root == tree.root, "a tree that was written anew is the same")
    try:
        return tree, facts_of(tree, len(data))
    except MalformedEvidence as error:
        return tree, error.finding_id, error.message


def tree_seeds() -> Iterable[bytes]:
    """The trees of three VMMs."""
    yield from device_trees()


def check_image(data: bytes) -> object:
    """The first byte chooses: 0 the bytes themselves, 1 gzip of them, 2 gzip of them as an arm64 Image.

    Measured in one piece or in many, an image is the same; its document is read back.
    """
    mode, content = (data[0] % 3 if data else 0), data[1:]
    if mode == 2:
        content = content[:_MAGIC_AT].ljust(_MAGIC_AT, b"\0") + b"ARMd" + content[_MAGIC_AT:].ljust(4, b"\0")
    file = gzip.compress(content, 1, mtime=0) if mode else content
    measured = measure_image(file, IMAGE_LIMITS)
    pieces = (file[at : at + _CHUNK] for at in range(0, len(file), _CHUNK))
    require(measure_stream(pieces, len(file), IMAGE_LIMITS) == measured, "pieces change nothing")
    require(measured.file_digests[HashAlgorithm.SHA256] == sha256(file).digest(), "the file's digest is its digest")
    document = json.loads(json.dumps(measured.to_document()))
    require(ImageMeasurements.from_document(document, IMAGE_LIMITS) == measured, "an image's document is read back")
    return measured.kind, measured.compression, measured.image_id, measured.kernel, measured.device_tree


def image_seeds() -> Iterable[bytes]:
    """Kernels, packed kernels, trees, blobs."""
    yield from (b"\0" + data for data in files("vmm/images/*", "logs/synthetic/images/*"))
    yield from (b"\0" + data for data in device_trees()[:4])
    kernel = files("vmm/images/linux.bin")[0]
    yield from (b"\1" + kernel, b"\2" + kernel, b"\2" + bytes(20000))
    yield b"\0" + gzip.compress(kernel, mtime=0)[:-6] + b"xxxxxx"


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
    for data in (b"blob", *files("vmm/images/linux.bin*"), device_trees()[0], bytes(4093)):
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
    Target(name="device_tree", check=check_device_tree, seeds=tree_seeds, max_bytes=16 * 1024),
    Target(name="image", check=check_image, seeds=image_seeds, max_bytes=16 * 1024, cpu_ms=100, cpu_ms_per_kib=100),
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
    ),
)
