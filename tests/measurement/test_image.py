"""What an image is taken for, and the document in which it is registered."""

import copy
import dataclasses
import gzip
import hashlib
import json
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbs_rim.errors import InvalidDocument, MalformedEvidence
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.limits import Limits
from kbs_rim.measurement.device_tree import Node, parse_device_tree
from kbs_rim.measurement.device_tree_writer import write_device_tree
from kbs_rim.measurement.granules import BLOCK_SIZE, Alignment, granule_digests, lead_of
from kbs_rim.measurement.image import Arm64Header, Compression, ImageKind, ImageMeasurements, measure_image, measure_stream

SHA256 = HashAlgorithm.SHA256


def kernel_bytes(size: int = 9000) -> bytes:
    """An arm64 Image header and pseudo-random bytes behind it."""
    head = b"MZ@\xfa" + bytes(4) + struct.pack("<QQQ", 0x80000, 0x2D10000, 0xA) + bytes(24) + b"ARMd" + struct.pack("<I", 0x40)
    return head + hashlib.shake_128(b"kernel").digest(size - len(head))


@pytest.fixture
def images(vectors):
    return vectors / "vmm" / "images"


def test_a_published_kernel_header_is_read(images):
    measured = measure_image((images / "linux.bin").read_bytes())
    assert measured.kind is ImageKind.ARM64_IMAGE
    assert measured.kernel == Arm64Header(text_offset=0, image_size=0x2D10000, flags=0xA)
    assert measured.image_id == "sha256:1d996b14b5b5fcc2beb6abd2c6beb6d9ca8ae38e16542cdd83bbdb49213e7351"


def test_a_gzipped_kernel_is_measured_as_the_vmm_loads_it(images):
    packed = (images / "linux.bin.gz").read_bytes()
    plain = measure_image((images / "linux.bin").read_bytes())
    measured = measure_image(packed)
    assert measured.compression is Compression.GZIP
    assert measured.image_id == plain.image_id
    assert measured.granules == plain.granules
    assert measured.file_size == 116
    assert measured.file_digests[SHA256].hex() == "f31b57ad8bed6f1e0877a93d13e97dad7b8e83bdc12dfe82ca8fc9fa2a9f501e"


def test_a_gzip_file_that_is_no_kernel_is_measured_as_it_is(images):
    """An initrd is gzip as well, and no VMM unpacks it."""
    data = (images / "randombytes.bin.gz").read_bytes()
    measured = measure_image(data)
    assert (measured.kind, measured.compression, measured.size) == (ImageKind.BLOB, None, 295)
    assert measured.digests[SHA256] == hashlib.sha256(data).digest()


def test_only_the_first_gzip_member_is_loaded():
    kernel = kernel_bytes()
    file = gzip.compress(kernel) + gzip.compress(b"second member")
    measured = measure_image(file)
    assert measured.digests[SHA256] == hashlib.sha256(kernel).digest()
    assert measured.file_digests[SHA256] == hashlib.sha256(file).digest()


@pytest.mark.parametrize("size", [BLOCK_SIZE, 3 * BLOCK_SIZE, 2 * BLOCK_SIZE + 1])
def test_gzip_over_several_blocks(size):
    kernel = kernel_bytes(size)
    file = gzip.compress(kernel)
    measured = measure_stream((file[at : at + 1000] for at in range(0, len(file), 1000)), len(file))
    assert measured.granules == measure_image(kernel).granules
    assert measured.size == size


def test_a_device_tree_gives_its_facts(vectors):
    measured = measure_image((vectors / "vmm" / "dtb-public" / "X016-kvmtool.dtb").read_bytes())
    assert measured.kind is ImageKind.DEVICE_TREE
    assert measured.device_tree is not None
    assert measured.device_tree.memory == ((0x80000000, 0x8000000),)
    assert measured.device_tree.cpus == 16


def test_a_damaged_device_tree_is_refused(vectors):
    data = bytearray((vectors / "vmm" / "dtb-public" / "C27-qemu.dtb").read_bytes())
    data[56:60] = b"\0\0\0\7"
    with pytest.raises(MalformedEvidence) as refused:
        measure_image(bytes(data))
    assert refused.value.finding_id == "tree.malformed"


def test_a_large_file_with_the_tree_magic_is_a_blob():
    """A FIT image has the same magic. Nothing reads it as a tree, so no role that needs facts will take it."""
    data = b"\xd0\x0d\xfe\xed" + bytes(5000)
    assert measure_image(data, Limits(device_tree_bytes=5000)).kind is ImageKind.BLOB


def test_granules_are_picked_by_the_load_address(images):
    data = (images / "initrd-unaligned.bin").read_bytes()
    measured = measure_image(data)
    assert measured.granules_at(0x40000000, SHA256) == granule_digests(data, SHA256)
    assert measured.granules_at(0x8FDFD8EC, SHA256) == granule_digests(data, SHA256, 0x8EC)
    assert measured.granules_at(0x40000004, SHA256) is None


def test_an_empty_image_is_refused():
    with pytest.raises(MalformedEvidence) as refused:
        measure_image(b"")
    assert refused.value.finding_id == "image.empty"


@pytest.mark.parametrize(("chunks", "size"), [((b"abc",), 4), ((b"abc",), 2), ((b"ab", b"c"), 2), ((), 1)])
def test_a_file_that_changed_while_it_was_read_is_refused(chunks, size):
    with pytest.raises(MalformedEvidence) as refused:
        measure_stream(chunks, size)
    assert refused.value.finding_id == "image.truncated"


def test_limits_hold_before_anything_is_hashed():
    def never():
        raise AssertionError("read")
        yield b""

    with pytest.raises(MalformedEvidence) as refused:
        measure_stream(never(), 101, Limits(image_bytes=100))
    assert refused.value.finding_id == "image.too-large"


def test_a_gzip_bomb_is_bounded():
    bomb = gzip.compress(kernel_bytes(64) + bytes(8 << 20))
    assert len(bomb) < 10000
    with pytest.raises(MalformedEvidence) as refused:
        measure_image(bomb, Limits(gunzip_bytes=1 << 20))
    assert refused.value.finding_id == "image.too-large"


@pytest.mark.parametrize("damage", ["cut", "crc", "cut-trailer"])
def test_a_damaged_gzipped_kernel_is_refused(damage):
    file = gzip.compress(kernel_bytes(1 << 16))
    broken = {"cut": file[:9000], "crc": file[:-8] + b"\0\0\0\0" + file[-4:], "cut-trailer": file[:-3]}[damage]
    with pytest.raises(MalformedEvidence) as refused:
        measure_image(broken)
    assert refused.value.finding_id == "image.gzip"


def test_a_gzip_header_without_content_is_a_blob():
    assert measure_image(b"\x1f\x8b\x08" + bytes(20)).kind is ImageKind.BLOB
    assert measure_image(zlib.compress(kernel_bytes())).kind is ImageKind.BLOB


@given(st.binary(min_size=1, max_size=9000), st.booleans())
def test_a_document_survives_the_round_trip(data, is_kernel):
    measured = measure_image(kernel_bytes(64) + data if is_kernel else data)
    document = json.loads(json.dumps(measured.to_document()))
    assert ImageMeasurements.from_document(document) == measured


@pytest.mark.parametrize("name", ["linux.bin", "linux.bin.gz", "firmware.bin"])
def test_documents_of_published_images(images, name):
    measured = measure_image((images / name).read_bytes())
    assert ImageMeasurements.from_document(json.loads(json.dumps(measured.to_document()))) == measured


def test_the_document_of_a_tree(vectors):
    measured = measure_image((vectors / "vmm" / "dtb-public" / "X080-cloud-hv.dtb").read_bytes())
    document = measured.to_document()
    assert document["device_tree"]["memory"] == [["0x40000000", "0x10000000"]]
    assert ImageMeasurements.from_document(json.loads(json.dumps(document))) == measured


def _set(path, value):
    def change(document):
        target = document
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = value(target[path[-1]]) if callable(value) else value

    change.__name__ = ".".join(path)
    return change


def _drop(name):
    return lambda document: document.pop(name)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (_drop("kernel"), "kernel"),
        (lambda document: document.update(extra=1), "extra"),
        (_set(["size"], 0), "size"),
        (_set(["size"], True), "size"),
        (_set(["size"], "9000"), "size"),
        (_set(["size"], 1 << 60), "size"),
        (_set(["size"], 4096), "granules"),
        (_set(["file_size"], 8999), "differ"),
        (_set(["kind"], "elf"), "kind"),
        (_set(["kind"], "blob"), "kernel header"),
        (_set(["compression"], "zstd"), "compression"),
        (_set(["kernel"], None), "kernel header"),
        (_set(["kernel", "flags"], 10), "kernel.flags"),
        (_set(["kernel", "flags"], "0x1ffffffffffffffff"), "kernel.flags"),
        (_set(["kernel", "flags"], "0x0a"), "kernel.flags"),
        (_set(["digests", "sha256"], "00" * 32), "differ"),
        (_set(["digests", "sha256"], "00" * 31), "digests.sha256"),
        (_set(["digests", "sha256"], str.upper), "digests.sha256"),
        (_set(["digests"], {}), "digests"),
        (_set(["digests"], []), "digests"),
        (_set(["granules", "sha256", "start"], ""), "granules.sha256.start"),
        (_set(["granules", "sha512", "end"], lambda text: text[:-4]), "granules.sha512.end"),
        (_set(["granules", "sha256", "start"], lambda text: "*" + text[1:]), "granules.sha256.start"),
        (_set(["granules", "sha384", "start"], None), "granules.sha384.start"),
        (_set(["granules", "sha256"], {"start": ""}), "granules.sha256"),
    ],
)
def test_a_wrong_document_names_what_is_wrong(change, word):
    document = copy.deepcopy(measure_image(kernel_bytes()).to_document())
    change(document)
    with pytest.raises(InvalidDocument, match=word) as refused:
        ImageMeasurements.from_document(document)
    assert refused.value.finding_id == "document.image"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (_set(["device_tree", "cpus"], -1), "cpus"),
        (_set(["device_tree", "size"], 1), "size"),
        (_set(["device_tree", "memory"], [["0x0"]]), "memory"),
        (_set(["device_tree", "memory"], [["0x0", "0x1"]] * 1025), "memory"),
        (_set(["device_tree", "initrd"], "0x0"), "initrd"),
        (_set(["device_tree", "bootargs"], "a\0b"), "bootargs"),
        (_set(["device_tree"], None), "device tree facts"),
    ],
)
def test_a_wrong_tree_document_names_what_is_wrong(vectors, change, word):
    document = measure_image((vectors / "vmm" / "dtb-public" / "X080-cloud-hv.dtb").read_bytes()).to_document()
    change(document)
    with pytest.raises(InvalidDocument, match=word):
        ImageMeasurements.from_document(document)


@pytest.mark.parametrize("document", [None, [], "image", 3])
def test_a_document_that_is_no_object_is_refused(document):
    with pytest.raises(InvalidDocument):
        ImageMeasurements.from_document(document)


def test_base64_with_spare_bits_is_refused():
    """32 bytes leave two unused bits in base64; two spellings of one digest list would be two documents."""
    document = measure_image(b"x" * 100).to_document()
    text = document["granules"]["sha256"]["start"]
    assert text.endswith("=")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    spare = alphabet[alphabet.index(text[-2]) | 1]
    assert spare != text[-2]
    document["granules"]["sha256"]["start"] = text[:-2] + spare + "="
    with pytest.raises(InvalidDocument, match="canonical"):
        ImageMeasurements.from_document(document)


def test_the_end_layout_may_be_the_start_layout():
    data = bytes(range(256)) * 16
    measured = measure_image(data[:4092])
    assert lead_of(Alignment.END, 4092) == 0
    assert measured.granules[SHA256, Alignment.END] == measured.granules[SHA256, Alignment.START]
    document = measured.to_document()
    document["granules"]["sha256"]["end"] = measure_image(b"other").to_document()["granules"]["sha256"]["start"]
    with pytest.raises(InvalidDocument, match="alignments"):
        ImageMeasurements.from_document(document)


def test_contradicting_measurements_cannot_be_made():
    measured = measure_image(kernel_bytes())
    for changes, word in (
        ({"size": 0}, "at least one byte"),
        ({"kind": ImageKind.DEVICE_TREE, "kernel": None}, "device tree facts"),
        ({"kind": ImageKind.BLOB, "kernel": None, "compression": Compression.GZIP}, "unpacked"),
        ({"digests": {SHA256: bytes(32)}, "file_digests": {SHA256: bytes(32)}}, "missing"),
    ):
        with pytest.raises(ValueError, match=word):
            dataclasses.replace(measured, **changes)
    with pytest.raises(ValueError, match="64 bits"):
        Arm64Header(1 << 64, 0, 0)


def test_attack_device_tree_that_begins_like_a_kernel():
    """The Image magic fits into a gap of a tree; what such a file is depends on who looks at it."""
    tree = write_device_tree(Node("", {}))
    header = list(struct.unpack(">10I", tree[:40]))
    for index in (1, 2, 3, 4):
        header[index] += 24
    both = struct.pack(">10I", *header) + bytes(16) + b"ARMd" + bytes(4) + tree[40:]
    assert parse_device_tree(both).root == Node("", {})
    with pytest.raises(MalformedEvidence, match="begins like a kernel") as refused:
        measure_image(both)
    assert refused.value.finding_id == "tree.malformed"
