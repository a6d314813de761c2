"""Granule digests against the plain definition: pad, cut into 4096 bytes, hash each."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.measurement.granules import BLOCK_SIZE, Alignment, ImageHasher, blocks_of, granule_count, granule_digests, lead_of

PAGE = 4096


def plain_granules(data: bytes, name: str, lead: int) -> bytes:
    """The definition, written without any cleverness."""
    padded = bytes(lead) + data
    padded += bytes(-len(padded) % PAGE)
    return b"".join(hashlib.new(name, padded[at : at + PAGE]).digest() for at in range(0, len(padded), PAGE))


@given(st.integers(1, 5 * PAGE), st.integers(1, 1 << 20))
def test_end_lead_is_the_kvmtool_rule(size, limit_page):
    """base = up(limit - (size + 4), 4): the highest multiple of 4 that leaves at least one byte below the limit."""
    limit = limit_page * PAGE + (1 << 30)
    base = (limit - (size + 4) + 3) // 4 * 4
    assert base % PAGE == lead_of(Alignment.END, size)
    assert base % 4 == 0
    assert base + size < limit
    assert base + 4 + size >= limit


@pytest.mark.parametrize(("size", "lead"), [(0x5022C00, 0x3FC), (10001, 2284), (14, 4080), (4092, 0), (4095, 0), (4096, 4092), (1, 4092)])
def test_end_lead_of_known_sizes(size, lead):
    """The first is the initrd of a real kvmtool log, at 0x8addd3fc."""
    assert lead_of(Alignment.END, size) == lead
    assert lead_of(Alignment.START, size) == 0


@given(st.binary(max_size=3 * PAGE), st.sampled_from(list(HashAlgorithm)), st.integers(0, PAGE - 1), st.lists(st.integers(1, 5000)))
def test_granules_follow_the_definition_however_the_data_comes(data, algorithm, lead, cuts):
    chunks, rest = [], data
    for cut in cuts:
        chunks.append(rest[:cut])
        rest = rest[cut:]
    chunks.append(rest)
    expected = plain_granules(data, algorithm.compact_name, lead) if data else b""
    assert granule_digests(chunks, algorithm, lead) == expected
    assert granule_digests(data, algorithm, lead) == expected
    assert len(expected) == (granule_count(len(data), lead) * algorithm.digest_size if data else 0)


@pytest.mark.parametrize("size", [1, 4092, PAGE, BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 1, 2 * BLOCK_SIZE + 4093])
def test_one_pass_gives_every_digest(size):
    data = hashlib.shake_128(b"image").digest(size)
    hasher = ImageHasher(size)
    for block in blocks_of((data[:1000], data[1000:])):
        hasher.update(block)
    hashed = hasher.finish()
    assert hashed.size == size
    for algorithm in HashAlgorithm:
        name = algorithm.compact_name
        assert hashed.digests[algorithm] == hashlib.new(name, data).digest()
        for alignment in Alignment:
            assert hashed.granules[algorithm, alignment] == plain_granules(data, name, lead_of(alignment, size))


def test_blocks_keep_the_bytes_and_the_size():
    data = hashlib.shake_128(b"blocks").digest(3 * BLOCK_SIZE + 17)
    pieces = [data[:10], b"", data[10 : BLOCK_SIZE + 5], bytearray(data[BLOCK_SIZE + 5 :])]
    blocks = [bytes(block) for block in blocks_of(pieces)]
    assert b"".join(blocks) == data
    assert [len(block) for block in blocks] == [BLOCK_SIZE, BLOCK_SIZE, BLOCK_SIZE, 17]


def test_a_wrong_announced_size_is_refused():
    """The padding in front depends on the size, so a wrong one would give digests that match nothing."""
    hasher = ImageHasher(10)
    hasher.update(memoryview(bytes(9)))
    with pytest.raises(ValueError, match="fewer bytes"):
        hasher.finish()
    with pytest.raises(ValueError, match="more bytes"):
        hasher.update(memoryview(bytes(2)))
    with pytest.raises(ValueError, match="at least one byte"):
        ImageHasher(0)


@pytest.mark.parametrize("lead", [-1, PAGE])
def test_a_lead_outside_of_the_granule_is_refused(lead):
    with pytest.raises(ValueError, match="lead"):
        granule_digests(b"x", HashAlgorithm.SHA256, lead)


@pytest.mark.parametrize("lead", [0, 1, 1660, PAGE - 1])
@pytest.mark.parametrize("place", [None, 0, PAGE - 1, PAGE, 2 * PAGE + 5, 5 * PAGE - 1])
def test_zeros_are_hashed_as_the_zeros_that_they_are(lead, place):
    data = bytearray(5 * PAGE)
    if place is not None:
        data[place] = 1
    for algorithm in HashAlgorithm:
        assert granule_digests(bytes(data), algorithm, lead) == plain_granules(bytes(data), algorithm.compact_name, lead)
