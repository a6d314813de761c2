"""Text from outside made safe to show: no control character of a log or token ever reaches a terminal or a web page raw."""

_PREVIEW_BYTES = 16


def printable(text: str, limit: int = 240) -> str:
    """Return ``text`` with everything that does not print (controls, format and bidi characters, lone surrogates) escaped.

    Longer text is cut to ``limit`` characters and marked with three dots.
    """
    if len(text) <= limit and text.isprintable():
        return text
    # Escaping makes text longer, never shorter: what stands behind the limit cannot matter.
    shown = "".join(character if character.isprintable() else _escape(character) for character in text[: limit + 1])
    return shown if len(shown) <= limit and len(text) <= limit else shown[:limit] + "..."


def printable_bytes(data: bytes, limit: int = 240) -> str:
    """Return bytes as printable text: UTF-8 where it is UTF-8, escapes elsewhere."""
    return printable(data[: 4 * limit].decode("utf-8", "backslashreplace"), limit)


def hex_preview(data: bytes) -> str:
    """Return the size and the first bytes of opaque data."""
    if not data:
        return "empty"
    dots = "..." if len(data) > _PREVIEW_BYTES else ""
    return f"{len(data)} bytes: {data[:_PREVIEW_BYTES].hex()}{dots}"


def _escape(character: str) -> str:
    point = ord(character)
    if point <= 0xFF:
        return f"\\x{point:02x}"
    return f"\\u{point:04x}" if point <= 0xFFFF else f"\\U{point:08x}"
