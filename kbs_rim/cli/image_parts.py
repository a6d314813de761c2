"""What firmware and boot loaders measure of an image, as rows of a table: of a local file or of a registered image alike."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Row = tuple[str, object]
_MACHINES = {"0xaa64": "arm64", "0x8664": "x86-64", "0x14c": "x86", "0x1c2": "arm", "0x5064": "riscv64", "0x6264": "loongarch64"}


def part_rows(pe: Mapping[str, Any] | None, volumes: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    """Yield names and values. Of sections and volumes only the SHA-256 is shown; ``--json`` has all."""
    for volume in volumes:
        yield f"volume at {volume['offset']}", f"{volume['size']} bytes, sha256 {volume['digests']['sha256']}"
    if pe is None:
        return
    signature = f"signed, {pe['certificates_size']} bytes of certificates" if pe["certificates_size"] else "unsigned"
    yield "PE file", f"{_MACHINES.get(pe['machine'], pe['machine'])}, {signature}"
    yield from _digests("authenticode", pe["authenticode"])
    yield from _digests("once signed", pe["authenticode_padded"] or {})
    if pe["loader"]:
        yield "loader", pe["loader"]
    if pe["uki"]:
        yield from _uki_rows(pe["uki"])


def _uki_rows(uki: Mapping[str, Any]) -> Iterator[Row]:
    for section in uki["sections"]:
        profile = "" if section["profile"] is None else f" of profile {section['profile']}"
        yield f"{section['name']}{profile}", f"{section['size']} bytes, sha256 {section['digests']['sha256']}"
        if section["text"] is not None:
            # As a literal: the text may hold line ends and whatever a terminal would obey.
            yield "", repr(section["text"])
    for number, initrd in enumerate(uki["initrds"]):
        name = f"stub's initrd {number}" if len(uki["initrds"]) > 1 else "stub's initrd"
        if initrd is None:
            yield name, "none"
        else:
            yield from _digests(name, initrd)


def _digests(name: str, digests: Mapping[str, str]) -> Iterator[Row]:
    for algorithm, digest in digests.items():
        yield f"{name} {algorithm}", digest
