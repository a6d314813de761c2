"""What is wrong with an administrator's document, in words of ours: the key, what stands there, and what may stand there.

pydantic finds the mistakes; its own texts speak of validators and types of Python.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from kbs_rim.appraisal.rule_values import RANGE_PATTERN
from kbs_rim.evidence.printable import printable

_MOST = 20
_KNOWN_HERE = "; known here: "
_SEEN_CHARACTERS = 60
_FORMS: Mapping[str, str] = {
    r"^[a-z0-9][a-z0-9._-]{0,63}$": "lower case letters, digits, '.', '_' and '-', at most 64 of them, the first a letter or digit",
    r"^(?:[a-z0-9][a-z0-9.-]{0,63})?$": "lower case letters, digits, '.' and '-', at most 64 of them, the first a letter or digit",
    r"^sha256:[0-9a-f]{64}$": "the id of an image: sha256: and 64 hexadecimal digits, as kbs-rim image add prints it",
    r"^(?:[0-9a-f]{2})+$": "bytes in hexadecimal digits",
    r"^[0-9a-f]{64}$": "a SHA-256 digest: 64 hexadecimal digits",
    RANGE_PATTERN: "a range such as 1-16, or 0x40000000-0x100000000/0x40000000 with a step",
    r"^[ -~]*$": "one line of printable ASCII",
}
"""Patterns of workloads and rule packs, in words; a pattern without words is shown as it is."""
_KINDS: Mapping[str, str] = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing": 'a whole number, or one in hexadecimal such as "0x40000000"',
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "dict_type": "a table",
}
_BOUNDS: Mapping[str, tuple[str, str]] = {
    "greater_than": ("more than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}


def document_problems(error: ValidationError, document: object, model: type[BaseModel], *, whole: str) -> str:
    """Return one clause for each wrong place of ``document``, the first 20 of them; ``whole`` names the document itself."""
    reasons: dict[tuple[int | str, ...], list[ErrorDetails]] = {}
    for item in error.errors(include_url=False):
        place = tuple(_in_document(item["loc"], document, extra=item["type"] in ("missing", "extra_forbidden")))
        reasons.setdefault(place, []).append(item)
    for place in tuple(reasons):
        # An entry that is wrong is not counted, so its list seems too short as well.
        if all(item["type"] == "too_short" for item in reasons[place]) and any(other[: len(place)] == place != other for other in reasons):
            del reasons[place]
    clauses = [
        f"{printable('.'.join(map(str, place))) or whole}: {_together(items, model)}" for place, items in list(reasons.items())[:_MOST]
    ]
    if len(reasons) > _MOST:
        clauses.append(f"and {len(reasons) - _MOST} more")
    return "; ".join(_said_once(clauses))


def _said_once(clauses: Iterable[str]) -> Iterator[str]:
    """Leave out a list of known keys that an earlier clause gave."""
    listed = set()
    for clause in clauses:
        head, known, keys = clause.partition(_KNOWN_HERE)
        yield head if keys in listed else clause
        listed.update([keys] if known else [])


def _together(items: Sequence[ErrorDetails], model: type[BaseModel]) -> str:
    """Join what the alternatives of one place say: it is neither the one nor the other."""
    reasons = list(dict.fromkeys(_reason(item, model) for item in items))
    wanted = [reason.partition(" is not ")[2] for reason in reasons]
    if len(reasons) == 1 or not all(wanted):
        return ", and ".join(reasons)
    return f"{reasons[0].partition(' is not ')[0]} is neither {' nor '.join(wanted)}"


def _in_document(place: Sequence[str | int], document: Any, *, extra: bool) -> Iterator[str | int]:
    """Leave out the parts that name alternatives of the schema: what remains can be found in the document."""
    for position, part in enumerate(place):
        if _holds(document, part):
            document = document[part]
        elif not extra or position < len(place) - 1:
            continue
        yield part


def _holds(document: object, part: str | int) -> bool:
    if isinstance(document, Mapping):
        return part in document
    return isinstance(document, list | tuple) and isinstance(part, int) and part < len(document)


def _reason(item: ErrorDetails, model: type[BaseModel]) -> str:
    kind, context = item["type"], item.get("ctx", {})
    if kind == "missing":
        return "this key is missing"
    if kind == "extra_forbidden":
        return _unknown_key(item["loc"], model)
    if kind == "union_tag_not_found":
        return "no key says what kind of value this is"
    seen = _seen(item["input"])
    if kind == "value_error":
        text = item["msg"].removeprefix("Value error, ")
        return f"{seen} is not a hexadecimal number" if text.startswith("invalid literal") else printable(text)
    if kind in ("enum", "literal_error"):
        return f"{seen} is not one of {_choices(str(context['expected']))}"
    if kind == "string_pattern_mismatch":
        pattern = str(context["pattern"])
        return f"{seen} is not {_FORMS.get(pattern, f'of the form {printable(pattern)}')}"
    if kind in _BOUNDS:
        words, name = _BOUNDS[kind]
        return f"{seen} is not {words} {context[name]}"
    if kind in ("too_short", "too_long", "string_too_short", "string_too_long"):
        one, several = ("character", "characters") if kind.startswith("string") else ("entry", "entries")
        word, count = ("at least", context["min_length"]) if kind.endswith("short") else ("at most", context["max_length"])
        return f"there must be {word} {count} {one if count == 1 else several}"
    if kind in _KINDS:
        return f"{seen} is not {_KINDS[kind]}"
    return f"{seen}: {printable(item['msg'])}"


def _seen(value: object) -> str:
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, list | tuple | set | frozenset):
        return "a list"
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{printable(value, _SEEN_CHARACTERS)}"' if isinstance(value, str) else printable(str(value), _SEEN_CHARACTERS)


def _choices(expected: str) -> str:
    """Take the quotes off the list that pydantic gives: ``'a', 'b' or 'c'``."""
    return printable(re.sub(r"'([^']*)'", r"\1", expected))


def _unknown_key(place: Sequence[str | int], model: type[BaseModel]) -> str:
    known = _keys_at(place[:-1], model)
    nearest = difflib.get_close_matches(str(place[-1])[:100], known, n=1, cutoff=0.6)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    listed = f"{_KNOWN_HERE}{', '.join(known)}" if known and not nearest else ""
    return f"this key is not known{hint}{listed}"


def _keys_at(place: Sequence[str | int], model: type[BaseModel]) -> tuple[str, ...]:
    """Return the keys of the table at a place of the schema; none if it is not one table."""
    current: type[BaseModel] | None = model
    for part in place:
        field = current.model_fields.get(part) if current is not None and isinstance(part, str) else None
        if field is not None:
            current = next(_models_in(field.annotation), None)
        elif not isinstance(part, int):
            return ()
    return tuple(current.model_fields) if current is not None else ()


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)
