"""Writes JSON values as TOML 1.0, for documents that people read and edit. Comments may stand behind items of lists."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_WIDTH = 100


def to_toml(document: Mapping[str, Any], notes: Mapping[str, str] | None = None, path: tuple[str, ...] = ()) -> str:
    """Return ``document`` as TOML below the table ``path``. ``notes`` are comments for strings, wherever they stand in a list.

    None cannot be written and is left out. Raises ``ValueError`` for a value that TOML does not have.
    """
    return "\n".join(_table(document, path, notes or {}, heading="[%s]")).strip("\n") + "\n"


def _table(table: Mapping[str, Any], path: tuple[str, ...], notes: Mapping[str, str], *, heading: str) -> list[str]:
    plain = {key: value for key, value in table.items() if value is not None and not _is_table(value) and not _is_tables(value)}
    lines = []
    if path and (plain or heading == "[[%s]]" or not table):
        lines += ["", heading % ".".join(map(_key, path))]
    lines += [f"{_key(key)} = {_value(value, notes)}" for key, value in plain.items()]
    for key, value in table.items():
        if _is_table(value):
            lines += _table(value, (*path, key), notes, heading="[%s]")
        elif _is_tables(value):
            for item in value:
                lines += _table(item, (*path, key), notes, heading="[[%s]]")
    return lines


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping)


def _is_tables(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and bool(value) and all(map(_is_table, value))


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _string(key)


def _value(value: Any, notes: Mapping[str, str]) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, Sequence):
        return _list(value, notes)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(key)} = {_value(item, notes)}" for key, item in value.items() if item is not None) + " }"
    raise ValueError(f"TOML has no {type(value).__name__}")


def _string(text: str) -> str:
    """A basic string; JSON's escapes are TOML's, but that DEL must be escaped too. Raises ``ValueError`` for half a surrogate pair."""
    text.encode()  # what has no UTF-8 has no TOML
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _list(items: Sequence[Any], notes: Mapping[str, str]) -> str:
    written = [_value(item, notes) for item in items]
    comments = [notes.get(item, "") if isinstance(item, str) else "" for item in items]
    inline = f"[{', '.join(written)}]"
    if len(inline) <= _WIDTH and not any(comments):
        return inline
    lines = [f"  {text}," + (f"  # {_one_line(note)}" if note else "") for text, note in zip(written, comments, strict=True)]
    return "\n".join(["[", *lines, "]"])


def _one_line(note: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in note)
