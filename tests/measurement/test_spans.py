"""Digests over parts of a stream equal those over the same parts of the whole file, however it is cut."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.measurement.spans import Piece, Span, SpanReader, held_bytes

DATA = hashlib.shake_128(b"spans").digest(4000)


def pieces_of(size: int) -> st.SearchStrategy[list[Piece]]:
    ends = st.tuples(st.integers(0, size), st.integers(0, size))
    return st.lists(st.one_of(ends.map(lambda pair: Span(min(pair), max(pair))), st.binary(max_size=9)), max_size=8)


def joined(data: bytes, pieces: list[Piece]) -> bytes:
    return b"".join(data[piece.start : piece.end] if isinstance(piece, Span) else piece for piece in pieces)


def read(reader: SpanReader, data: bytes, block: int) -> tuple:
    for at in range(0, len(data), block):
        reader.update(memoryview(data)[at : at + block])
    return reader.finish()


@given(st.lists(pieces_of(len(DATA)), max_size=4), st.integers(1, 5000))
def test_any_pieces_in_any_order_from_any_blocks(wanted, block):
    reader: SpanReader[int] = SpanReader()
    for name, pieces in enumerate(wanted):
        reader.add_digest(name, pieces)
    reader.add_content(99, Span(7, 4000))
    digests, contents = read(reader, DATA, block)
    assert contents == {99: DATA[7:]}
    for name, pieces in enumerate(wanted):
        for algorithm in HashAlgorithm:
            assert digests[name][algorithm] == algorithm.digest(joined(DATA, pieces))


@given(pieces_of(len(DATA)), st.integers(1, 5000))
def test_no_more_is_held_than_was_announced(pieces, block):
    reader: SpanReader[str] = SpanReader([HashAlgorithm.SHA256])
    reader.add_digest("x", pieces)
    most = 0
    for at in range(0, len(DATA), block):
        reader.update(memoryview(DATA)[at : at + block])
        most = max(most, sum(map(len, reader._digests["x"]._waiting.values())))
    assert most <= held_bytes(pieces)


def test_pieces_in_the_order_of_the_file_hold_nothing():
    assert held_bytes([Span(0, 100), b"zeros", Span(200, 300), Span(300, 4000)]) == 0
    assert held_bytes([Span(200, 300), Span(0, 100)]) == 100
    assert held_bytes([Span(0, 100), Span(90, 300)]) == 10


def test_a_file_that_ends_too_early_gives_no_digest():
    for wanted in (Span(3000, 4001), Span(4000, 4001), Span(5000, 6000)):
        reader: SpanReader[str] = SpanReader()
        reader.add_digest("x", [wanted])
        with pytest.raises(ValueError, match="ended"):
            read(reader, DATA, 1000)


def test_asking_late_is_a_mistake():
    reader: SpanReader[str] = SpanReader()
    reader.update(memoryview(DATA))
    with pytest.raises(ValueError, match="before"):
        reader.add_digest("x", [Span(0, 1)])


@pytest.mark.parametrize(("start", "end"), [(-1, 3), (4, 3)])
def test_a_range_has_a_length(start, end):
    with pytest.raises(ValueError, match="no range"):
        Span(start, end)
