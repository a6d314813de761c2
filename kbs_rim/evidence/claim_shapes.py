"""What a claim's value may look like: small checkers that the claim tables are written with.

A shape looks at types and sizes only and never at meaning. Wrong types are refused for optional claims as well, and a bool is
never taken for an integer. Messages name the claim, never its content.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn, Protocol

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.evidence.strict_cbor import CborValue, Tagged

DIGEST_SIZES = tuple(algorithm.digest_size for algorithm in HashAlgorithm)


class Shape(Protocol):
    """One checker. ``where`` names the claim for messages."""

    def check(self, value: CborValue, where: str) -> None:
        """Return if ``value`` fits; raise ``MalformedEvidence("token.*")`` if not."""
        ...


def kind_of(value: CborValue) -> str:
    """Name the CBOR type of ``value``, for findings: the type may be told, the content may not."""
    if value is None:
        return "null"
    if isinstance(value, Tagged):
        return f"tag {value.number}"
    names: dict[type, str] = {
        bool: "boolean",
        int: "integer",
        float: "float",
        bytes: "byte string",
        str: "text string",
        tuple: "array",
        dict: "map",
    }
    return names[type(value)]


def _wrong_type(where: str, value: CborValue, expected: str) -> NoReturn:
    raise MalformedEvidence("token.claim-type", f"{where} has the wrong type", expected=expected, seen=kind_of(value))


def _wrong_value(where: str, expected: str, seen: str) -> NoReturn:
    raise MalformedEvidence("token.claim-value", f"{where} has a value or size that is not allowed", expected=expected, seen=seen)


@dataclass(frozen=True, slots=True)
class ByteString:
    """Bytes of one of ``sizes`` (any size of at least one byte if there are none), beginning with ``first`` if given."""

    sizes: tuple[int, ...] = ()
    first: int | None = None

    def check(self, value: CborValue, where: str) -> None:
        if not isinstance(value, bytes):
            _wrong_type(where, value, "byte string")
        if not value or (self.sizes and len(value) not in self.sizes):
            expected = " or ".join(map(str, self.sizes)) if self.sizes else "at least 1"
            _wrong_value(where, f"{expected} bytes", f"{len(value)} bytes")
        if self.first is not None and value[0] != self.first:
            _wrong_value(where, f"first byte 0x{self.first:02x}", f"first byte 0x{value[0]:02x}")


@dataclass(frozen=True, slots=True)
class Text:
    """A text string of any content."""

    def check(self, value: CborValue, where: str) -> None:
        if not isinstance(value, str):
            _wrong_type(where, value, "text string")


@dataclass(frozen=True, slots=True)
class HashName:
    """The IANA name of one of ``algorithms``, in lower case."""

    algorithms: tuple[HashAlgorithm, ...] = tuple(HashAlgorithm)

    def check(self, value: CborValue, where: str) -> None:
        if not isinstance(value, str):
            _wrong_type(where, value, "text string")
        names = [algorithm.value for algorithm in self.algorithms]
        if value not in names:
            raise MalformedEvidence("token.hash-algorithm", f"{where} is not a hash that is allowed here", expected=" or ".join(names))


@dataclass(frozen=True, slots=True)
class Unsigned:
    """An unsigned integer within one of the inclusive ``ranges``."""

    ranges: tuple[tuple[int, int], ...]

    def check(self, value: CborValue, where: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int):
            _wrong_type(where, value, "unsigned integer")
        if not any(low <= value <= high for low, high in self.ranges):
            expected = ", ".join(f"0x{low:x}-0x{high:x}" if low != high else str(low) for low, high in self.ranges)
            _wrong_value(where, expected, str(value))


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of ``choices``, which may be of several types: two specifications spell the same thing differently."""

    choices: tuple[int | str, ...]

    def check(self, value: CborValue, where: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int | str):
            _wrong_type(where, value, "integer or text string")
        if value not in self.choices:
            _wrong_value(where, " or ".join(map(str, self.choices)), "another " + kind_of(value))


@dataclass(frozen=True, slots=True)
class Boolean:
    """False or true."""

    def check(self, value: CborValue, where: str) -> None:
        if not isinstance(value, bool):
            _wrong_type(where, value, "boolean")


@dataclass(frozen=True, slots=True)
class Array:
    """At least one element of shape ``item``, or exactly ``length`` of them."""

    item: Shape
    length: int | None = None

    def check(self, value: CborValue, where: str) -> None:
        if not isinstance(value, tuple):
            _wrong_type(where, value, "array")
        if not value or (self.length is not None and len(value) != self.length):
            expected = "at least 1" if self.length is None else f"exactly {self.length}"
            _wrong_value(where, f"{expected} elements", f"{len(value)} elements")
        for index, element in enumerate(value):
            self.item.check(element, f"{where}[{index}]")


@dataclass(frozen=True, slots=True)
class AnyMap:
    """A map that nobody of ours looks into."""

    def check(self, value: CborValue, where: str) -> None:
        if not isinstance(value, dict):
            _wrong_type(where, value, "map")


@dataclass(frozen=True, slots=True)
class Claim:
    """One row of a claim table."""

    label: int
    name: str
    shape: Shape
    required: bool = True


@dataclass(frozen=True, slots=True)
class Record:
    """A map described by a claim table; labels that the table does not know are ignored."""

    claims: tuple[Claim, ...]

    def check(self, value: CborValue, where: str) -> None:
        if not isinstance(value, dict):
            _wrong_type(where, value, "map")
        check_claims(value, self.claims, where)


def check_claims(claims: Mapping[int | str, CborValue], table: tuple[Claim, ...], where: str) -> None:
    """Hold a claims map against its table.

    Raises ``MalformedEvidence``: "token.claim-missing", "token.claim-type", "token.claim-value", "token.hash-algorithm", or
    "cbor.key-type" for a text key that spells a label of the table.
    """
    refuse_spelt_labels(claims, frozenset(claim.label for claim in table), where)
    for claim in table:
        name = f"{where} {claim.name} ({claim.label})"
        if claim.label in claims:
            claim.shape.check(claims[claim.label], name)
        elif claim.required:
            raise MalformedEvidence("token.claim-missing", f"{name} is absent")


def refuse_spelt_labels(claims: Mapping[int | str, CborValue], labels: frozenset[int], where: str) -> None:
    """Refuse text keys that a lenient reader takes for an integer label ("10" for 10); other text keys are just unknown claims.

    Go's CBOR decoder matches text keys against field names, which for integer labels are the decimal digits.
    """
    for key in claims:
        if isinstance(key, str) and _spelt_integer(key) in labels:
            raise MalformedEvidence("cbor.key-type", f"{where}: a text key spells an integer label", seen=str(_spelt_integer(key)))


def _spelt_integer(text: str) -> int | None:
    """Read ``text`` as generously as ``int`` does: signs, spaces, leading zeros, digits of any script."""
    try:
        return int(text)
    except ValueError:
        return None
