"""Order of Debian package versions (deb-version(7)): epoch, upstream version, revision; a tilde sorts before everything, even the end."""

import re
from functools import total_ordering

from kbs_rim.errors import RefusedSource

_VERSION = re.compile(r"(?:([0-9]{1,9}):)?([0-9A-Za-z.+:~-]*?)(?:-([0-9A-Za-z.+~]*))?")
_PARTS = re.compile(r"([^0-9]*)([0-9]*)")
_LETTER_BASE, _OTHER_BASE = 0, 0x100
_MAX_CHARACTERS = 200


@total_ordering
class DebianVersion:
    """A version that can be compared. Raises ``RefusedSource`` (``source.index``) for text that is no version."""

    __slots__ = ("_key", "text")

    def __init__(self, text: str) -> None:
        match = _VERSION.fullmatch(text) if text and len(text) <= _MAX_CHARACTERS else None
        if match is None:
            raise RefusedSource("source.index", "this is no version of a package", seen=text[:80])
        self.text = text
        self._key = (int(match[1] or 0), _key(match[2]), _key(match[3] or ""))

    def __eq__(self, other: object) -> bool:
        """Versions may be equal though they are written differently: 1.0 and 1.00."""
        return isinstance(other, DebianVersion) and self._key == other._key

    def __lt__(self, other: "DebianVersion") -> bool:
        """Return whether this version is older."""
        return self._key < other._key

    def __hash__(self) -> int:
        """Agree with ``==``."""
        return hash(self._key)


def _key(text: str) -> tuple[tuple[tuple[int, ...], int], ...]:
    """Cut into non-digits and digits in turn; the end counts as 0, letters come behind it, all else behind letters, ``~`` in front."""
    parts = [((*map(_order, word), 0), int(number or 0)) for word, number in _PARTS.findall(text)]
    while parts and parts[-1] == ((0,), 0):
        parts.pop()
    return (*parts, ((0,), 0))


def _order(character: str) -> int:
    if character == "~":
        return -1
    return ord(character) + (_LETTER_BASE if character.isalpha() else _OTHER_BASE)
