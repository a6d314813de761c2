"""Device trees as text: source that dtc reads, and single values for findings. Every character printed is plain ASCII.

A tree is written by a host that may be hostile, so nothing of it reaches a terminal or a record but through here.
"""

from collections.abc import Iterator

from kbs_rim.measurement.device_tree_blob import DeviceTree, Node

_INDENT = "\t"
_PREVIEW = 96
"""Characters of a value that a finding shows."""


def value_text(value: bytes) -> str:
    """Return a property's value in source form: strings if it looks like strings, cells if it has whole cells, else bytes."""
    if _looks_like_strings(value):
        return ", ".join(_quoted(item) for item in value[:-1].split(b"\0"))
    if len(value) % 4 == 0:
        return "<" + " ".join(f"{int.from_bytes(value[at : at + 4], 'big'):#x}" for at in range(0, len(value), 4)) + ">"
    return f"[{value.hex(' ')}]"


def value_preview(value: bytes) -> str:
    """Return ``value_text``, short enough for a finding."""
    if not value:
        return "empty"
    shown = value_text(value[: 4 * _PREVIEW])
    if len(value) <= 4 * _PREVIEW and len(shown) <= _PREVIEW:
        return shown
    return f"{shown[:_PREVIEW]}... ({len(value)} bytes)"


def tree_source(tree: DeviceTree) -> Iterator[str]:
    """Yield the lines of the tree's source, without newlines. Names have no unusual characters: the reader sees to that."""
    yield "/dts-v1/;"
    for base, size in tree.reservations:
        yield f"/memreserve/ {base:#x} {size:#x};"
    yield ""
    pending: list[tuple[int, Node | None]] = [(0, tree.root)]
    while pending:
        depth, node = pending.pop()
        indent = _INDENT * depth
        if node is None:
            yield f"{indent}}};"
            continue
        yield f"{indent}{node.name or '/'} {{"
        for name, value in node.properties.items():
            yield f"{indent}{_INDENT}{name} = {value_text(value)};" if value else f"{indent}{_INDENT}{name};"
        pending.append((depth, None))
        pending.extend((depth + 1, child) for child in reversed(node.children))


def _looks_like_strings(value: bytes) -> bool:
    if not value.endswith(b"\0"):
        return False
    return all(item and all(0x20 <= byte < 0x7F for byte in item) for item in value[:-1].split(b"\0"))


def _quoted(item: bytes) -> str:
    text = item.decode("ascii").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
