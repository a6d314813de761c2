"""Random changes to inputs, for the engine without coverage."""

import random
from collections.abc import Callable, Sequence

_ODD_NUMBERS = (*range(9), 16, 32, 64, 127, 128, 255, 4096, 0x7FFF, 0x8000, 0xFFFF, 1 << 31, (1 << 32) - 1, 1 << 63, (1 << 64) - 1)
_Change = Callable[["Mutator", bytearray], None]


class Mutator:
    """Makes new inputs from known ones. The same seed gives the same inputs."""

    def __init__(self, seed: int, words: Sequence[bytes], max_bytes: int) -> None:
        """``words`` are pieces that mean something to the parser."""
        self._random = random.Random(seed)
        self._words = tuple(words)
        self._max = max_bytes

    def mutate(self, pool: Sequence[bytes]) -> bytes:
        """Return one input of ``pool`` with a few changes, at most ``max_bytes`` long."""
        data = bytearray(self._random.choice(pool))
        for _ in range(self._random.choice((1, 1, 1, 2, 3, 5, 8))):
            if self._random.random() < 0.1:
                self._splice(data, self._random.choice(pool))
            else:
                self._random.choice(_CHANGES)(self, data)
        return bytes(data[: self._max])

    def _place(self, data: bytearray) -> int:
        return self._random.randrange(len(data) + 1)

    def _piece(self, data: bytearray) -> slice:
        start = self._place(data)
        return slice(start, min(len(data), start + self._random.choice((1, 1, 2, 4, 8, 16, 32, 64, 256))))

    def _splice(self, data: bytearray, other: bytes) -> None:
        data[self._place(data) :] = other[self._random.randrange(len(other) + 1) :]

    def _flip_bit(self, data: bytearray) -> None:
        if data:
            data[self._random.randrange(len(data))] ^= 1 << self._random.randrange(8)

    def _set_byte(self, data: bytearray) -> None:
        if data:
            data[self._random.randrange(len(data))] = self._random.choice((0, 1, 0x7F, 0x80, 0xFF, self._random.randrange(256)))

    def _insert_bytes(self, data: bytearray) -> None:
        at = self._place(data)
        data[at:at] = self._random.randbytes(self._random.choice((1, 2, 4, 8, 32)))

    def _delete(self, data: bytearray) -> None:
        del data[self._piece(data)]

    def _repeat(self, data: bytearray) -> None:
        piece = data[self._piece(data)]
        at = self._place(data)
        data[at:at] = bytes(piece) * self._random.choice((1, 1, 2, 4, 16, 256))
        del data[self._max :]

    def _copy_over(self, data: bytearray) -> None:
        piece = bytes(data[self._piece(data)])
        at = self._place(data)
        data[at : at + len(piece)] = piece

    def _cut(self, data: bytearray) -> None:
        del data[self._place(data) :]

    def _number(self, data: bytearray) -> None:
        width = self._random.choice((1, 2, 4, 8))
        value = (self._random.choice(_ODD_NUMBERS) + self._random.choice((-1, 0, 0, 1))) % (1 << 8 * width)
        at = self._place(data)
        data[at : at + width] = value.to_bytes(width, self._random.choice(("big", "little")))

    def _digit(self, data: bytearray) -> None:
        places = [at for at, byte in enumerate(data[:4096]) if 0x30 <= byte <= 0x39]
        if places:
            data[self._random.choice(places)] = self._random.choice(b"0123456789-.eE")

    def _word(self, data: bytearray) -> None:
        if self._words:
            word, at = self._random.choice(self._words), self._place(data)
            data[at : at + self._random.choice((0, len(word)))] = word


_CHANGES: tuple[_Change, ...] = (
    Mutator._flip_bit,
    Mutator._set_byte,
    Mutator._insert_bytes,
    Mutator._delete,
    Mutator._repeat,
    Mutator._copy_over,
    Mutator._cut,
    Mutator._number,
    Mutator._digit,
    Mutator._word,
    Mutator._word,
)
