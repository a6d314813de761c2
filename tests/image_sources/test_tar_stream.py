"""Tar archives: the same as Python's tarfile for honest ones, and a refusal where readers differ."""

import contextlib
import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbs_rim.errors import RefusedSource
from kbs_rim.image_sources.byte_streams import read_up_to
from kbs_rim.image_sources.source_limits import DEFAULT_SOURCE_LIMITS
from kbs_rim.image_sources.tar_stream import TarKind, tar_members
from tests.package_forge import tar_bytes

PART = st.text(st.characters(codec="utf-8", exclude_characters="/\0\n\r", exclude_categories=("Cs", "Cc")), min_size=1, max_size=60)
NAME = st.lists(PART.filter(lambda part: part not in (".", "..")), min_size=1, max_size=6).map("/".join)


def members(data: bytes) -> list[tuple[str, TarKind, bytes, int]]:
    return [(m.path, m.kind, read_up_to(m.content, m.size), m.offset) for m in tar_members(io.BytesIO(data), DEFAULT_SOURCE_LIMITS)]


def refusal(data: bytes) -> str:
    with pytest.raises(RefusedSource) as caught:
        members(data)
    return caught.value.finding_id


@settings(max_examples=60)
@given(
    st.dictionaries(NAME, st.binary(max_size=2000), max_size=6),
    st.sampled_from((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)),
)
def test_archives_are_read_as_tarfile_reads_them(files, form):
    data = tar_bytes([(f"./{name}", content) for name, content in files.items()], form=form)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        expected = [(info.name.removeprefix("./"), info.offset_data) for info in tar]
    found = members(data)
    assert [(path, offset) for path, _, _, offset in found] == expected
    assert [content for _, _, content, _ in found] == list(files.values())


@settings(max_examples=200)
@given(st.binary(max_size=1500))
def test_any_bytes_are_read_or_refused(data):
    with contextlib.suppress(RefusedSource):
        members(data)


def test_members_that_nobody_reads_are_passed_over():
    data = tar_bytes([("a", b"x" * 3000), ("b", b"y")])
    assert [member.path for member in tar_members(io.BytesIO(data), DEFAULT_SOURCE_LIMITS)] == ["a", "b"]


def info(name: str = "f", **fields: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(made, key, value)
    return made


def one(made: tarfile.TarInfo, content: bytes = b"", *, form: int = tarfile.PAX_FORMAT) -> bytes:
    made.size = len(content)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        tar.addfile(made, io.BytesIO(content))
    return out.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        one(info("../etc/passwd")),
        one(info("a/../../b")),
        one(info("/etc/passwd")),
        one(info("f", type=tarfile.LNKTYPE, linkname="../../etc/shadow")),
        one(info("f", type=tarfile.GNUTYPE_SPARSE), form=tarfile.GNU_FORMAT),
        one(info("f", pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "g"}), b"1\n0\n512\n"),
        one(info("f", pax_headers={"size": "7"}), b"content of another size"),
        one(info("f", pax_headers={"path": "../../out"})),
        one(info("f", pax_headers={"hdrcharset": "BINARY"})),
        one(info("f", type=b"V"), form=tarfile.GNU_FORMAT),
        tar_bytes([("a", b"")])[:-1024] + b"x" * 1024,
        tar_bytes([("a", b"")]) + b"x" * 512,
        tar_bytes([("a", b"123")])[:600],
        tar_bytes([("a", b"")])[:512],
        b"",
    ],
    ids=[
        "up", "up later", "absolute", "hard link out", "gnu sparse", "pax sparse", "pax size", "pax path out", "charset", "volume label",
        "garbage for the end", "garbage behind the end", "cut in content", "no end", "nothing",
    ],
)  # fmt: skip
def test_what_tools_read_differently_is_refused(data):
    assert refusal(data) == "source.archive"


def test_a_global_header_that_renames_everything_is_refused():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"path": "boot/vmlinuz"}) as tar:
        tar.addfile(tarfile.TarInfo("harmless"))
    assert refusal(out.getvalue()) == "source.archive"


def test_a_file_that_stands_twice_is_refused():
    assert refusal(tar_bytes([("./boot/vmlinuz", b"good"), ("boot/vmlinuz", b"evil")])) == "source.name-twice"
    assert refusal(tar_bytes([("./boot/vmlinuz", b"good"), ("./boot/vmlinuz", "evil")])) == "source.name-twice"


def test_a_header_with_a_wrong_checksum_is_refused():
    data = bytearray(tar_bytes([("a", b"x")]))
    data[0] = ord("b")
    assert refusal(bytes(data)) == "source.archive"


def test_a_name_that_is_too_long_is_refused():
    assert refusal(tar_bytes([("x/" * 3000 + "y", b"")])) == "source.archive"
    assert refusal(tar_bytes([("x/" * 1_000_000 + "y", b"")])) == "source.too-large"


def test_a_size_beyond_every_disk_is_refused():
    header = bytearray(one(info(), b"x", form=tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 12
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header[:512])
    assert refusal(bytes(header)) == "source.archive"


def patched(at: int, field: bytes) -> bytes:
    """An archive of one file, whose header has ``field`` and again a right checksum."""
    data = bytearray(one(info("f"), b"x", form=tarfile.GNU_FORMAT))
    data[at : at + len(field)] = field
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    return bytes(data)


@pytest.mark.parametrize(
    ("at", "field"),
    [(100, b"rwxr-xr-"), (108, b"\x97" * 8), (136, b"yesterday   "), (124, b"\0" * 10 + b"1\0"), (124, b"1\x001        "), (0, b"./\0")],
    ids=["mode", "uid in no binary form", "time", "NULs before a size", "NUL inside a size", "a file called like a folder"],
)
def test_a_header_that_ends_the_archive_for_other_readers_is_refused(at, field):
    """Found by fuzzing against tarfile, which stops at such a header or reads another size."""
    assert refusal(patched(at, field)) == "source.archive"
