"""The kernels of the RIM chain: the same results, whatever the run; and none is used that computes something else."""

import hashlib
import json
import struct
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.measurement import chain_kernel
from kbs_rim.measurement.chain_kernel import NATIVE, PURE, SLICE_STEPS, ChainKernel, KernelChoice, Run, choose, extend_run, prove
from kbs_rim.measurement.operations_file import parse_operations_file
from kbs_rim.measurement.rmm import DataCreate, RecCreate, RimChain, RipasEntry

VECTORS = Path(__file__).parent.parent / "vectors" / "rim"
PAGE = 4096
KERNELS: dict[str, ChainKernel] = {"pure": PURE}
if NATIVE is not None:
    KERNELS |= {"native": NATIVE, "portable": replace(NATIVE, portable=True)}
needs_native = pytest.mark.skipif(NATIVE is None, reason=f"native kernel: {chain_kernel.NATIVE_STATE}")


@pytest.fixture(autouse=True)
def same_kernel_afterwards():
    yield
    choose(KernelChoice.AUTO)


def straightforward(kind: Run, algorithm: HashAlgorithm, rim: bytes, base: int, stride: int, count: int, digests: bytes) -> bytes:
    """The descriptors of RMM 1.0 B4.3.9.4 and B4.3.18.4, field by field."""
    size = algorithm.digest_size
    for number in range(count):
        block = bytearray(0x100)
        struct.pack_into("<Q", block, 0x08, 0x100)
        block[0x10 : 0x10 + size] = rim
        address = base + number * stride
        struct.pack_into("<Q", block, 0x50, address)
        if kind is Run.RIPAS:
            block[0] = 2
            struct.pack_into("<Q", block, 0x58, address + stride)
        elif kind is Run.DATA:
            struct.pack_into("<Q", block, 0x58, 1)
            block[0x60 : 0x60 + size] = digests[number * size : (number + 1) * size]
        rim = hashlib.new(algorithm.compact_name, block).digest()
    return rim


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
@given(
    kind=st.sampled_from(Run),
    algorithm=st.sampled_from(HashAlgorithm),
    base=st.integers(0, (1 << 48) - 1),
    stride=st.sampled_from([1, PAGE, 2 << 20, 1 << 30, 1 << 39]),
    count=st.sampled_from([0, 1, 2, 3, 4, 7, 63, 64, 65]),
    seed=st.binary(min_size=1, max_size=8),
)
def test_any_run_is_what_the_specification_says(kernel, kind, algorithm, base, stride, count, seed):
    size = algorithm.digest_size
    rim = hashlib.shake_256(seed).digest(size)
    digests = hashlib.shake_256(seed + b"digests").digest(count * size)
    given_digests = digests if kind is Run.DATA else None
    found = extend_run(kernel, kind, algorithm, rim, base, count, stride=stride, digests=given_digests)
    assert found == straightforward(kind, algorithm, rim, base, stride, count, digests)


@pytest.mark.parametrize("algorithm", HashAlgorithm, ids=lambda item: item.value)
@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
@pytest.mark.parametrize("count", [SLICE_STEPS - 1, SLICE_STEPS, SLICE_STEPS + 1, 2 * SLICE_STEPS + 5])
def test_slices_are_seamless(kernel, algorithm, count):
    digests = hashlib.shake_256(b"slices").digest(count * algorithm.digest_size)
    rim = bytes(algorithm.digest_size)
    expected = straightforward(Run.DATA, algorithm, rim, 1 << 31, PAGE, count, digests)
    assert extend_run(kernel, Run.DATA, algorithm, rim, 1 << 31, count, digests=memoryview(digests)) == expected


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
@pytest.mark.parametrize("name", ["rmm1.0.json", "rmm2.0.json"])
def test_published_chains(kernel, name):
    content = parse_operations_file((VECTORS / name).read_bytes())
    for case in content.cases:
        create, *others = case.operations
        algorithm, rim = create.hash_algorithm, RimChain(content.rmm, create).value
        for operation in others:
            match operation:
                case DataCreate(ipa, None):
                    rim = extend_run(kernel, Run.UNMEASURED, algorithm, rim, ipa, 1)
                case DataCreate(ipa, digest):
                    rim = extend_run(kernel, Run.DATA, algorithm, rim, ipa, 1, digests=digest)
                case RipasEntry(base, top) if content.rmm.measures_ripas:
                    rim = extend_run(kernel, Run.RIPAS, algorithm, rim, base, 1, stride=top - base)
                case RecCreate():
                    chain = RimChain(content.rmm, create, reached=rim)
                    chain.rec(operation)
                    rim = chain.value
        assert rim == case.rim


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_known_answers(kernel):
    assert prove(kernel) is None


@pytest.mark.parametrize("bit", range(3))
def test_a_kernel_that_computes_something_else_is_not_used(bit):
    """As a broken compiler would make it: one bit of one kind of run is wrong."""

    class Broken:
        name, implementations = "broken", PURE.implementations

        def extend(self, kind, algorithm, rim, base, stride, digests, count):
            good = bytearray(PURE.extend(kind, algorithm, rim, base, stride, digests, count))
            good[-1] ^= kind == bit
            return bytes(good)

    wrong = prove(Broken())
    assert wrong is not None
    assert "sha-256, sha-384, sha-512" in wrong


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
@pytest.mark.parametrize(
    ("kind", "size", "base", "count", "digests"),
    [
        (Run.DATA, 32, 0, 2, bytes(63)),
        (Run.DATA, 32, 0, 1, None),
        (Run.RIPAS, 32, 0, 1, bytes(32)),
        (Run.DATA, 48, 0, 1, bytes(48)),
        (Run.UNMEASURED, 32, -PAGE, 1, None),
        (Run.UNMEASURED, 32, 0, -1, None),
        (Run.UNMEASURED, 32, (1 << 64) - PAGE, 1, None),
    ],
)
def test_a_run_that_contradicts_itself_is_refused(kernel, kind, size, base, count, digests):
    with pytest.raises(ValueError, match="run"):
        extend_run(kernel, kind, HashAlgorithm.SHA256, bytes(size), base, count, digests=digests)


@needs_native
@pytest.mark.parametrize(
    "arguments",
    [
        (3, bytes(32), 0, PAGE, 1, None),
        (-1, bytes(32), 0, PAGE, 1, None),
        (1, bytes(33), 0, PAGE, 1, None),
        (1, b"", 0, PAGE, 1, None),
        (1, bytes(32), 0, PAGE, -1, None),
        (1, bytes(32), 0, PAGE, 1 << 20, None),
        (1, bytes(32), (1 << 64) - 1, PAGE, 1, None),
        (1, bytes(32), 1, (1 << 64) - 1, 2, None),
        (0, bytes(32), 0, PAGE, 2, bytes(63)),
        (0, bytes(32), 0, PAGE, 1, None),
        (2, bytes(32), 0, PAGE, 1, bytes(32)),
    ],
)
def test_the_compiled_module_checks_its_arguments_itself(arguments):
    with pytest.raises(ValueError, match=r"\w"):
        NATIVE.extend_natively(*arguments)


def test_the_pause_may_stop_a_long_run():
    calls = []

    def stop():
        calls.append(None)
        if len(calls) == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        extend_run(PURE, Run.UNMEASURED, HashAlgorithm.SHA256, bytes(32), 0, 10 * SLICE_STEPS, pause=stop)
    assert len(calls) == 2


@needs_native
def test_other_threads_run_while_the_compiled_kernel_works():
    """It gives up the interpreter's lock: a thread that waits for its turn gets it in the middle of a call."""
    digests, rim = bytes(SLICE_STEPS * 64), bytes(64)
    inside, seen = threading.Event(), []

    def other() -> None:
        inside.wait()  # it must not spin: it would keep the lock for the whole of the interval below
        seen.append(None)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(60)  # nobody is made to give the lock up: who runs was let in
    thread = threading.Thread(target=other)
    try:
        thread.start()
        inside.set()
        too_early = bool(seen)
        for _ in range(20):
            NATIVE.extend(Run.DATA, HashAlgorithm.SHA512, rim, 0, PAGE, memoryview(digests), SLICE_STEPS)
        happened = bool(seen)
    finally:
        sys.setswitchinterval(interval)
        thread.join()
    assert (too_early, happened) == (False, True)


def test_the_pure_kernel_can_be_chosen_and_the_native_one_demanded(monkeypatch):
    assert choose(KernelChoice.PURE) is PURE
    assert choose(KernelChoice.AUTO) is (NATIVE or PURE)
    monkeypatch.setattr(chain_kernel, "NATIVE", None)
    assert choose(KernelChoice.AUTO) is PURE
    with pytest.raises(ValueError, match="cannot be used"):
        choose(KernelChoice.NATIVE)


def test_without_the_compiled_module_everything_works():
    code = (
        "import sys, json; sys.modules['kbs_rim.measurement._chain_kernel'] = None\n"
        "from kbs_rim.measurement import chain_kernel as c\n"
        "print(json.dumps([c.in_use().name, c.NATIVE_STATE, c.prove(c.in_use())]))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    name, state, wrong = json.loads(result.stdout)
    assert (name, wrong) == ("pure", None)
    assert "cannot be loaded" in state
