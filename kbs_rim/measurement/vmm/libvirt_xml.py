"""XML as libvirt's definitions of domains have it, read without anything that makes XML dangerous.

No document type, so no entities but the five that XML has by itself; no encoding but UTF-8; bounded in bytes, elements and depth. One
tree of plain elements comes out (Extensible Markup Language 1.0, Namespaces in XML 1.0).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from xml.parsers import expat

from kbs_rim.errors import InvalidDocument
from kbs_rim.limits import MIB

LARGEST_DOCUMENT = 1 * MIB
"""Bytes; a definition with hundreds of devices has 100 KiB."""
_MOST_ELEMENTS = 20_000
_DEEPEST = 32
"""libvirt's deepest elements are at 8."""
_ENCODINGS = ("utf-8", "us-ascii")
_SEPARATOR = " "
"""Between namespace and name, as expat hands them over; no name has one."""


@dataclass(slots=True)
class XmlElement:
    """One element. ``namespace`` is "" for none; ``pieces`` are the text that stands in it, outside of its children."""

    namespace: str
    name: str
    attributes: Mapping[str, str]
    children: "list[XmlElement]" = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All of the element's own text."""
        return "".join(self.pieces)

    def all(self, name: str) -> "Iterator[XmlElement]":
        """Yield the children of this name that have no namespace."""
        return (child for child in self.children if child.name == name and not child.namespace)

    def first(self, *path: str) -> "XmlElement | None":
        """Return the first element at a path of names, or None."""
        found: XmlElement | None = self
        for name in path:
            found = None if found is None else next(found.all(name), None)
        return found

    def text_at(self, *path: str) -> str:
        """Return the text at a path, "" if there is no such element."""
        found = self.first(*path)
        return "" if found is None else found.text


def refuse_definition(where: str, problem: str) -> InvalidDocument:
    """Make the error for a definition; ``where`` names the element, ``problem`` says what to do."""
    return InvalidDocument("document.vm-definition", f"{where}: {problem}")


def parse_xml(data: bytes) -> XmlElement:
    """Return the root element.

    Raises ``InvalidDocument`` (``document.vm-definition``) for what is no well-formed XML, has a document type, is not UTF-8, or is
    larger or deeper than any definition.
    """
    if len(data) > LARGEST_DOCUMENT:
        raise refuse_definition("XML", f"has more than {LARGEST_DOCUMENT} bytes")
    builder = _Builder()
    parser = expat.ParserCreate(namespace_separator=_SEPARATOR)
    parser.buffer_text = True
    parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)
    parser.XmlDeclHandler = builder.declaration
    parser.StartDoctypeDeclHandler = builder.document_type
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.characters
    try:
        data.decode("utf-8")
        parser.Parse(data, True)
    except UnicodeDecodeError:
        raise refuse_definition("XML", "is not UTF-8") from None
    except expat.ExpatError as error:
        raise refuse_definition("XML", f"cannot be parsed: {expat.ErrorString(error.code)}, line {error.lineno}") from None
    if builder.root is None:
        raise refuse_definition("XML", "has no element")
    return builder.root


class _Builder:
    """Collects elements; what refuses a document raises out of the parser."""

    def __init__(self) -> None:
        self.root: XmlElement | None = None
        self._open: list[XmlElement] = []
        self._count = 0

    def declaration(self, _version: str, encoding: str | None, _standalone: int) -> None:
        if encoding is not None and encoding.lower() not in _ENCODINGS:
            raise refuse_definition("XML", f"is declared as {encoding[:40]}: write it in UTF-8")

    def document_type(self, *_details: Any) -> None:
        raise refuse_definition("XML", "has a document type (DOCTYPE), which no definition needs: take it out")

    def start(self, full_name: str, attributes: dict[str, str]) -> None:
        self._count += 1
        if self._count > _MOST_ELEMENTS or len(self._open) >= _DEEPEST:
            raise refuse_definition("XML", f"has more than {_MOST_ELEMENTS} elements, or is nested more than {_DEEPEST} levels")
        namespace, _, name = full_name.rpartition(_SEPARATOR)
        element = XmlElement(namespace, name, attributes)
        if self._open:
            self._open[-1].children.append(element)
        else:
            self.root = element
        self._open.append(element)

    def end(self, _name: str) -> None:
        self._open.pop()

    def characters(self, text: str) -> None:
        self._open[-1].pieces.append(text)
