"""Debian's control files: stanzas of ``Field: value`` lines with continuation lines (deb822(5)).

Read strictly: a field that stands twice is refused, because readers differ in which one counts. Field names become lower case.
"""

from collections.abc import Iterator, Mapping

from kbs_rim.errors import RefusedSource


def parse_stanza(data: bytes, finding_id: str) -> Mapping[str, str]:
    """Read one stanza. Continuation lines keep their line ends, without the blank in front.

    Raises ``RefusedSource`` with ``finding_id``.
    """
    try:
        text = data.decode("utf-8").strip("\n")
    except UnicodeDecodeError:
        raise RefusedSource(finding_id, "a control file is not UTF-8") from None
    fields: dict[str, list[str]] = {}
    name = ""
    for line in text.split("\n"):
        if line[:1] in (" ", "\t"):
            if not name:
                raise RefusedSource(finding_id, "a control file begins with a continuation line")
            fields[name].append(line[1:].rstrip())
            continue
        key, colon, value = line.partition(":")
        name = key.lower()
        if not colon or not key or not key.isascii() or not key.replace("-", "").replace("_", "").isalnum():
            raise RefusedSource(finding_id, "a line of a control file is no field", seen=line[:80])
        if name in fields:
            raise RefusedSource(finding_id, "a field stands twice in a control file", seen=key)
        fields[name] = [value.strip()]
    return {name: "\n".join(lines) for name, lines in fields.items()}


def stanzas_of(index: bytes, package: str) -> Iterator[bytes]:
    """Yield the stanzas of a package index that begin with ``Package: <package>``, as every archive writes them."""
    wanted = b"Package: " + package.encode("ascii", "replace") + b"\n"
    at = 0
    while (at := index.find(wanted, at)) >= 0:
        if at == 0 or index[at - 2 : at] == b"\n\n":
            end = index.find(b"\n\n", at)
            yield index[at : end if end >= 0 else len(index)]
        at += len(wanted)
