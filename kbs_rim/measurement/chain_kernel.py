"""The hot loop of every cold appraisal: long runs of RIM steps that differ in nothing but an address and a content.

Two kernels give the same results: one in Python, and one in C (``_chain_kernel.c``) where it was built. The C one has to prove itself
with known answers before it is used, and releases the interpreter's lock while it works. Which one runs changes what a replay
costs, never what it says; so the choice is one for the process (``choose``), not an argument of every appraisal.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Protocol

from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.limits import GRANULE_SIZE

RIM_FIELD_SIZE = 64
DESCRIPTOR_LENGTH = 0x100
SLICE_STEPS = 2048
"""Steps between two moments at which a replay may pause or be stopped: 0.5 to 3 ms."""
_U64_MAX = (1 << 64) - 1
_KNOWN_ANSWERS = {
    HashAlgorithm.SHA256: "4fb3a155d96bfb288b68260b0514facc158028a908ac915268bed991bcd802d1",
    HashAlgorithm.SHA384: ("791e23aaaad3e35ddeb33117a60170a31127c6f2854b007a34744fdddb52539a75722bc53d972c7cc32943450baf528c"),
    HashAlgorithm.SHA512: (
        "feb0909637fbacfc476ad3f850b65f0ad3e6bb911a0f3c616df491f849aafee5aabf5cab8e95c9b36eafeea28a40c5212fe60ff2a2705e0ec400cf3de73499c0"
    ),
}
"""RIMs of ``known_answer``, as the Python kernel computes them."""


class Run(IntEnum):
    """What a run consists of: measured granules, unmeasured ones, or RTT entries whose RIPAS was initialised (RMM 1.0)."""

    DATA = 0
    UNMEASURED = 1
    RIPAS = 2


class ChainKernel(Protocol):
    """Extends a RIM by a run. Arguments are checked by ``extend_run``."""

    @property
    def name(self) -> str:
        """``pure`` or ``native``."""
        ...

    @property
    def implementations(self) -> Mapping[str, str]:
        """What computes each hash, by the names of ``HashAlgorithm``."""
        ...

    def extend(
        self, kind: Run, algorithm: HashAlgorithm, rim: bytes, base: int, stride: int, digests: memoryview | None, count: int
    ) -> bytes:
        """Return the RIM after ``count`` steps, at ``base``, ``base + stride`` and so on."""
        ...


class PureKernel:
    """One ``hashlib`` call for each step, and as little as possible around it."""

    name = "pure"
    implementations = dict.fromkeys((algorithm.value for algorithm in HashAlgorithm), "hashlib")

    def extend(
        self, kind: Run, algorithm: HashAlgorithm, rim: bytes, base: int, stride: int, digests: memoryview | None, count: int
    ) -> bytes:
        """See ``ChainKernel``. One ``pack`` writes the whole descriptor: of all the ways to build it in Python this is the shortest."""
        new, size = algorithm.constructor, algorithm.digest_size
        head = struct.pack("<B7xQ", 2 if kind is Run.RIPAS else 0, DESCRIPTOR_LENGTH)
        addresses = range(base, base + count * stride, stride)
        if digests is not None:
            pack = struct.Struct(f"<16s{size}s{RIM_FIELD_SIZE - size}xQQ{size}s{RIM_FIELD_SIZE - size}x96x").pack
            for address, (content,) in zip(addresses, struct.iter_unpack(f"{size}s", digests), strict=True):
                rim = new(pack(head, rim, address, 1, content)).digest()
            return rim
        pack = struct.Struct(f"<16s{size}s{RIM_FIELD_SIZE - size}xQQ160x").pack
        to_top = stride if kind is Run.RIPAS else None
        for address in addresses:
            rim = new(pack(head, rim, address, 0 if to_top is None else address + to_top)).digest()
        return rim


_Extend = Callable[[int, bytes, int, int, int, memoryview | None, bool], bytes]


@dataclass(frozen=True, slots=True)
class NativeKernel:
    """The compiled module. ``portable`` forces its plain C where it would use instructions of this processor."""

    extend_natively: _Extend
    implementations: Mapping[str, str]
    portable: bool = False
    name: str = "native"

    def extend(
        self, kind: Run, algorithm: HashAlgorithm, rim: bytes, base: int, stride: int, digests: memoryview | None, count: int
    ) -> bytes:
        """See ``ChainKernel``. ``count`` is at most ``SLICE_STEPS``, which is fewer than the module takes at once."""
        return self.extend_natively(kind, rim, base, stride, count, digests, self.portable)


def extend_run(
    kernel: ChainKernel,
    kind: Run,
    algorithm: HashAlgorithm,
    rim: bytes,
    base: int,
    count: int,
    *,
    stride: int = GRANULE_SIZE,
    digests: bytes | memoryview | None = None,
    pause: Callable[[], None] | None = None,
) -> bytes:
    """Return the RIM after a run of ``count`` operations, ``digests`` of measured granules laid end to end.

    ``pause`` is called after every ``SLICE_STEPS`` steps; what it raises ends the run. Raises ``ValueError`` if the digests are not
    ``count`` of the algorithm, or the addresses do not fit 64 bits.
    """
    size = algorithm.digest_size
    view = None if digests is None else memoryview(digests).cast("B")
    if (view is not None) != (kind is Run.DATA) or (view is not None and len(view) != count * size):
        raise ValueError("granule digests of another number or algorithm than the run's")
    if len(rim) != size or base < 0 or count < 0 or stride < 1 or base + count * stride > _U64_MAX:
        raise ValueError("a run of another algorithm than the RIM's, or beyond 64 bits")
    for done in range(0, count, SLICE_STEPS):
        steps = min(SLICE_STEPS, count - done)
        part = None if view is None else view[done * size : (done + steps) * size]
        rim = kernel.extend(kind, algorithm, rim, base + done * stride, stride, part, steps)
        if pause is not None and done + steps < count:
            pause()
    return rim


def known_answer(kernel: ChainKernel, algorithm: HashAlgorithm) -> str:
    """Return what ``kernel`` makes of a fixed chain of every kind of run, in hex."""
    rim = bytes(range(algorithm.digest_size))
    digests = bytes(value * 7 & 0xFF for value in range(5 * algorithm.digest_size))
    for kind in Run:
        rim = extend_run(kernel, kind, algorithm, rim, 0x123456789000, 5, stride=2 << 20, digests=digests if kind is Run.DATA else None)
    return rim.hex()


class KernelChoice(StrEnum):
    """Which kernel is wanted: the native one if there is one, never, or by all means."""

    AUTO = "auto"
    PURE = "pure"
    NATIVE = "native"


PURE = PureKernel()


def prove(candidate: ChainKernel) -> str | None:
    """Return what is wrong with a kernel, or None if it gives every known answer."""
    wrong = [algorithm.value for algorithm, answer in _KNOWN_ANSWERS.items() if known_answer(candidate, algorithm) != answer]
    return f"it computes wrong RIMs with {', '.join(wrong)}" if wrong else None


def _load_native() -> tuple[NativeKernel | None, str]:
    try:
        from kbs_rim.measurement import _chain_kernel as module
    except ImportError as error:
        return None, f"it is not built or cannot be loaded ({error})"
    kernel = NativeKernel(module.extend, module.implementations())
    wrong = prove(kernel)
    return (kernel, "it is there") if wrong is None else (None, wrong)


NATIVE, NATIVE_STATE = _load_native()
"""The compiled kernel if it is there and proved itself; and how it is with it, in a few words."""


@dataclass(slots=True)
class _InUse:
    kernel: ChainKernel


_in_use = _InUse(NATIVE or PURE)


def in_use() -> ChainKernel:
    """Return the kernel of this process."""
    return _in_use.kernel


def choose(choice: KernelChoice) -> ChainKernel:
    """Take a kernel for the whole process; raise ``ValueError`` if the native one is demanded and cannot be used."""
    if choice is KernelChoice.NATIVE and NATIVE is None:
        raise ValueError(f"the native kernel cannot be used: {NATIVE_STATE}")
    _in_use.kernel = PURE if choice is KernelChoice.PURE else NATIVE or PURE
    return _in_use.kernel
