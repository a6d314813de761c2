"""The RIM chain against chains that TF-RMM's own measurement code computed."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.measurement.rmm import (
    DataCreate,
    RealmCreate,
    RecCreate,
    RimChain,
    RipasEntry,
    RmmVersion,
    count_ripas_entries,
    replay_operations,
    ripas_entries,
    ripas_runs,
    rtt_entry_sizes,
)

VECTORS = Path(__file__).parent.parent / "vectors" / "rim"
PAGE = 4096


def test_upstream_create_values():
    create = RealmCreate(HashAlgorithm.SHA256, flags=0, s2sz=48, num_bps=1, num_wps=1)
    assert RimChain(RmmVersion.V1_0, create).value.hex() == "6739dfb22b75ee1268d08dfa8369f501bc0b066243553f069f560d1fa1172973"


def test_documented_steps_a_to_e():
    chain = RimChain(RmmVersion.V1_0, RealmCreate(HashAlgorithm.SHA256, flags=0, s2sz=33, num_bps=5, num_wps=5))
    seen = [chain.value.hex()]
    for entry in ripas_entries(0x80000000, 0x80200000, 33):
        chain.ripas_entry(entry.base, entry.top)
    seen.append(chain.value.hex())
    chain.data_run(0x80000000, HashAlgorithm.SHA256.digest(b"FW CONTENT".ljust(PAGE, b"\0")))
    seen.append(chain.value.hex())
    chain.data(0x80100000, None)
    seen.append(chain.value.hex())
    chain.rec(RecCreate(1, 0x80000000, (0x8FE00000, 0, 0, 0, 0, 0, 0, 0)))
    seen.append(chain.value.hex())
    assert seen == [
        "9abbddd3cf68930801ba9475b12b0036bf43bd1399a161b178751d2f7b2880c3",
        "0d689b3cc196521b25f66e6c3bbdc2b8ea72e115a3bfa922c90c4c73ed798345",
        "49ffddde1a1b33722058e65557c17bdc0b0504cb304001060b64cedfb7033965",
        "4a5391931b585692ec7574feba5c2119ecea0ae95ac7e70474e67622c5002342",
        "8cd86c9e8eb768130d691aa62428b87df301c46597e8747fdecc9811db3a7b79",
    ]


@pytest.mark.parametrize(
    ("s2sz", "sizes"),
    [
        (48, 4), (44, 4), (43, 3), (40, 3), (39, 3), (35, 3), (34, 2), (31, 2), (30, 2), (26, 2), (25, 1), (21, 1), (20, 1), (52, 4),
    ],
)  # fmt: skip
def test_entry_sizes_of_the_reference(s2sz, sizes):
    assert len(rtt_entry_sizes(s2sz)) == sizes


@given(st.integers(0, 1 << 20), st.integers(1, 1 << 12), st.sampled_from([20, 25, 33, 39, 41, 44, 48, 52]))
def test_counting_agrees_with_splitting(base, length, s2sz):
    base, top = base * PAGE, (base + length) * PAGE
    entries = list(ripas_entries(base, top, s2sz))
    assert len(entries) == count_ripas_entries(base, top, s2sz)
    assert entries[0].base == base
    assert entries[-1].top == top
    assert all(left.top == right.base for left, right in itertools.pairwise(entries))


@given(
    st.one_of(st.integers(0, 1 << 20), st.integers(0, 1 << 11).map(lambda number: number * 512)),
    st.one_of(st.integers(1, 1 << 12), st.integers(1, 1 << 11).map(lambda number: number * 512)),
    st.sampled_from([20, 25, 33, 39, 41, 44, 48, 52]),
)
def test_runs_of_entries_are_the_entries(base, length, s2sz):
    length = min(length, (1 << s2sz) // PAGE)  # no range is larger than the address space; the smallest have no blocks, only pages
    low, high = base * PAGE, (base + length) * PAGE
    runs = list(ripas_runs(low, high, s2sz))
    entries = [(first + k * size, first + (k + 1) * size) for first, size, count in runs for k in range(count)]
    assert entries == [(entry.base, entry.top) for entry in ripas_entries(low, high, s2sz)]
    assert len(runs) <= 2 * len(rtt_entry_sizes(s2sz))


def test_counting_a_hostile_range_costs_nothing():
    assert count_ripas_entries(0, 1 << 51, 25) == 1 << 39


@pytest.mark.parametrize(("base", "top"), [(0, 0), (4096, 0), (1, 4097), (0, 4095), (-4096, 4096)])
def test_bad_ripas_ranges_are_refused(base, top):
    with pytest.raises(ValueError, match="RIPAS range"):
        count_ripas_entries(base, top, 33)


@given(st.binary(min_size=0, max_size=32 * 7), st.sampled_from(list(HashAlgorithm)))
def test_a_run_is_the_same_as_single_granules(blob, algorithm):
    size = algorithm.digest_size
    blob = blob[: len(blob) // size * size]
    params = RealmCreate(algorithm, flags=2, s2sz=40, sve_vl=3)
    run, single = RimChain(RmmVersion.V2_0, params), RimChain(RmmVersion.V2_0, params)
    run.data_run(0x40000000, blob)
    for number in range(len(blob) // size):
        single.apply(DataCreate(0x40000000 + number * PAGE, blob[number * size : (number + 1) * size]))
    assert run.value == single.value


def test_the_first_operation_must_create_the_realm():
    create = RealmCreate(HashAlgorithm.SHA256, flags=0, s2sz=40)
    with pytest.raises(ValueError, match="must create"):
        replay_operations(RmmVersion.V1_0, [RipasEntry(0, 4096), create])
    with pytest.raises(ValueError, match="exactly once"):
        replay_operations(RmmVersion.V1_0, [create, create])
    with pytest.raises(ValueError, match="must create"):
        replay_operations(RmmVersion.V1_0, [])
