"""The RMM model with its tables, driven by the KVM model."""

import hashlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbs_rim.realm.failures import RmmRefused
from kbs_rim.realm.guest_memory import GuestMemory
from kbs_rim.realm.kvm_host import KvmHost
from kbs_rim.realm.rim_model import PAGE, RealmHash, RealmParams, RecParams, RmmGeneration
from kbs_rim.realm.rmm_model import RmmModel
from kbs_rim.realm.stage2 import Stage2, span_of

MIB, GIB = 1 << 20, 1 << 30


def host(s2sz=33, generation=RmmGeneration.V1, hash_=RealmHash.SHA256, flags=0, bps=5):
    return KvmHost(RmmModel(generation, RealmParams(hash_, flags, s2sz, 0, bps, bps)))


class Recorder:
    """Wraps the measurements of a model and keeps the RIPAS entries it saw."""

    def __init__(self, kvm):
        self.entries = []
        original = kvm.rmm.measurements.ripas

        def ripas(base, top):
            self.entries.append((base, top))
            original(base, top)

        kvm.rmm.measurements.ripas = ripas


def entries_of(kvm, base, size, **options):
    recorder = Recorder(kvm)
    kvm.init_ripas(base, size, **options)
    return recorder.entries


def test_documented_steps_a_to_e():
    kvm, memory, seen = host(), GuestMemory(), []
    note = lambda: seen.append(kvm.rmm.measurements.rim.hex())  # noqa: E731
    note()
    kvm.init_ripas(0x80000000, 2 * MIB)
    note()
    memory.write(0x80000000, b"FW CONTENT")
    kvm.populate(memory, 0x80000000, 10)
    note()
    kvm.populate(memory, 0x80100000, PAGE, measured=False)
    note()
    kvm.create_rec(RecParams(1, 0x80000000, (0x8FE00000, 0, 0, 0, 0, 0, 0, 0)))
    note()
    assert seen == [
        "9abbddd3cf68930801ba9475b12b0036bf43bd1399a161b178751d2f7b2880c3",
        "0d689b3cc196521b25f66e6c3bbdc2b8ea72e115a3bfa922c90c4c73ed798345",
        "49ffddde1a1b33722058e65557c17bdc0b0504cb304001060b64cedfb7033965",
        "4a5391931b585692ec7574feba5c2119ecea0ae95ac7e70474e67622c5002342",
        "8cd86c9e8eb768130d691aa62428b87df301c46597e8747fdecc9811db3a7b79",
    ]


@pytest.mark.parametrize(
    ("s2sz", "level"),
    [(48, 0), (44, 0), (43, 1), (40, 1), (39, 1), (35, 1), (34, 2), (31, 2), (30, 2), (26, 2), (25, 3), (21, 3), (20, 3), (52, 0)],
)
def test_start_levels_are_those_of_the_reference(s2sz, level):
    assert Stage2(s2sz).start_level == level


def test_fresh_tables_give_the_coarsest_entries():
    seen = entries_of(host(s2sz=41), 0x40000000, GIB + 3 * MIB)
    assert seen == [(0x40000000, 0x80000000), (0x80000000, 0x80200000)] + [
        (0x80200000 + i * PAGE, 0x80201000 + i * PAGE) for i in range(256)
    ]


@given(st.integers(0, 1 << 19), st.integers(1, 1 << 11), st.sampled_from([33, 36, 40, 45, 48]))
def test_entries_are_aligned_maximal_and_without_gaps(first, pages, s2sz):
    base, top = first * PAGE, (first + pages) * PAGE
    kvm = host(s2sz=s2sz)
    seen = entries_of(kvm, base, top - base)
    sizes = [span_of(level) for level in range(kvm.rmm.tables.start_level, 4)]
    cursor = base
    for low, high in seen:
        assert low == cursor
        assert high - low == max(size for size in sizes if low % size == 0 and low + size <= top)
        cursor = high
    assert cursor == top


def test_ripas_after_data_is_measured_around_the_data():
    kvm, memory = host(s2sz=41), GuestMemory()
    kvm.populate(memory, 0x40001000, PAGE)
    seen = entries_of(kvm, 0x40000000, GIB, skip_data=True)
    assert seen[:2] == [(0x40000000, 0x40001000), (0x40002000, 0x40003000)]
    assert (0x40200000, 0x40400000) in seen
    assert len(seen) == 511 + 511
    assert seen[-1] == (0x7FE00000, 0x80000000)


def test_rmm_2_does_not_measure_ripas():
    kvm = host(generation=RmmGeneration.V2)
    before = kvm.rmm.measurements.rim
    kvm.init_ripas(0x80000000, 512 * MIB)
    assert kvm.rmm.measurements.rim == before


def test_a_granule_cannot_be_populated_twice():
    kvm, memory = host(), GuestMemory()
    kvm.populate(memory, 0x80000000, PAGE)
    with pytest.raises(RmmRefused, match="holds data already"):
        kvm.populate(memory, 0x80000800, 16)


def test_ripas_over_data_is_refused_unless_the_kernel_steps_over_it():
    kvm, memory = host(), GuestMemory()
    kvm.populate(memory, 0x80000000, PAGE)
    with pytest.raises(RmmRefused, match="holds data"):
        kvm.init_ripas(0x80000000, 2 * MIB)


@pytest.mark.parametrize("page_size", [4096, 16384, 65536])
def test_rounding_populates_zero_pages_around_the_image(page_size):
    memory, kvm, expected = GuestMemory(), host(generation=RmmGeneration.V2), host(generation=RmmGeneration.V2)
    memory.write(0x80011234, b"x" * 5000)
    kvm.populate(memory, 0x80011234, 5000, page_size=page_size)
    low = 0x80011234 // page_size * page_size
    high = -(-(0x80011234 + 5000) // page_size) * page_size
    for ipa in range(low, high, PAGE):
        expected.rmm.rtt_create(ipa, 3) if ipa == low else None
        assert expected.rmm.data_create(ipa, memory.read(ipa, PAGE), measured=True) is None
    assert kvm.rmm.measurements.rim == expected.rmm.measurements.rim


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"s2sz": 31}, "s2sz"), ({"s2sz": 49}, "s2sz"), ({"bps": 0}, "breakpoints"), ({"flags": 1 << 40}, "flags"),
        ({"flags": 1 << 7}, "flags"), ({"hash_": RealmHash.SHA384}, "SHA-384"),
    ],
)  # fmt: skip
def test_parameters_that_the_rmm_refuses(changes, text):
    with pytest.raises(RmmRefused, match=text):
        host(**changes)


def test_nothing_can_be_added_after_activation():
    kvm = host()
    kvm.rmm.activate()
    with pytest.raises(RmmRefused, match="active"):
        kvm.create_rec(RecParams(1, 0, (0,) * 8))
    with pytest.raises(RmmRefused, match="active"):
        kvm.populate(GuestMemory(), 0x80000000, PAGE)


def test_a_rec_that_cannot_run_is_not_measured():
    kvm = host()
    before = kvm.rmm.measurements.rim
    kvm.create_rec(RecParams(0, 0, (0,) * 8))
    assert kvm.rmm.measurements.rim == before
    kvm.create_rec(RecParams(1, 0, (0,) * 8))
    assert kvm.rmm.measurements.rim != before


def test_addresses_outside_the_protected_half_are_refused():
    kvm = host(s2sz=33)
    with pytest.raises(RmmRefused, match="protected"):
        kvm.init_ripas(0xFFE00000, 4 * MIB)


@given(st.lists(st.tuples(st.integers(0, 20000), st.binary(min_size=1, max_size=9000)), max_size=5))
def test_memory_keeps_the_bytes_written_last(writes):
    memory, flat = GuestMemory(), bytearray(32768)
    for address, data in writes:
        memory.write(address, data)
        flat[address : address + len(data)] = data
    assert memory.read(0, 32768) == flat
    assert memory.read(1234, 5678) == flat[1234 : 1234 + 5678]


def test_a_hundred_mebibytes_take_seconds_at_most():
    image = hashlib.sha256(b"seed").digest() * (100 * MIB // 32)
    memory, kvm = GuestMemory(), host()
    started = time.monotonic()
    memory.write(0x80000000, image)
    kvm.populate(memory, 0x80000000, len(image))
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (lambda rmm: rmm.rtt_create(0x80000000, 2), "RMI_ERROR_INPUT"),  # the start level exists already
        (lambda rmm: rmm.rtt_create(0x80000000, 4), "RMI_ERROR_INPUT"),
        (lambda rmm: (rmm.rtt_create(0x80000000, 3), rmm.rtt_create(0x80000000, 3)), "RMI_ERROR_RTT"),
        (lambda rmm: rmm.init_ripas(0x80001000, 0x80001000), "RMI_ERROR_INPUT"),
        (lambda rmm: rmm.init_ripas(0x80000800, 0x80002000), "RMI_ERROR_INPUT"),
        (lambda rmm: rmm.data_create(0x80000000, b"short", measured=True), "RMI_ERROR_INPUT"),
        (lambda rmm: rmm.rec_create(RecParams(3, 0, (0,) * 8)), "RMI_ERROR_INPUT"),
        (lambda rmm: rmm.extend(1, b"x"), "RSI_ERROR_STATE"),
        (lambda rmm: (rmm.activate(), rmm.extend(5, b"x")), "RSI_ERROR_INPUT"),
        (lambda rmm: (rmm.activate(), rmm.activate()), "RMI_ERROR_REALM"),
    ],
)
def test_commands_that_the_rmm_refuses(command, status):
    kvm = host()
    before = kvm.rmm.measurements.rim
    with pytest.raises(RmmRefused) as refused:
        command(kvm.rmm)
    assert refused.value.status == status
    assert kvm.rmm.measurements.rim == before


def test_tables_inherit_the_ripas_of_the_entry_above():
    """A data granule in RAM, then RIPAS again: the pages around it are RAM, and TF-RMM measures them once more."""
    kvm, memory = host(), GuestMemory()
    kvm.init_ripas(0x80000000, 2 * MIB)
    kvm.populate(memory, 0x80000000, PAGE)
    assert entries_of(kvm, 0x80001000, PAGE) == [(0x80001000, 0x80002000)]
