"""The initrd that systemd-stub puts together, which the kernel measures: sections of the UKI, archives made of others, addons.

As systemd-stub does it since version 257. What is on the disk beside the UKI (credentials, system
extensions) would come in between and is not modelled: with it, the digest is another one, and unknown.
"""

from collections.abc import Mapping, Sequence

from kbs_rim.measurement.spans import Piece, Span
from kbs_rim.measurement.uki import INITRD, OSREL, PCRPKEY, PCRSIG, PROFILE, UCODE

_EXTRA_FILES = (
    (PCRSIG, "tpm2-pcr-signature.json"),
    (PCRPKEY, "tpm2-pcr-public-key.pem"),
    (OSREL, "os-release"),
    (PROFILE, "profile"),
)
"""Sections that the kernel's user space finds as files below ``/.extra``, in the order of their archives."""
_FOLDER = ".extra"
_FOLDER_MODE, _FILE_MODE = 0o040555, 0o100444
_ALIGNMENT = 4
_CPIO_MAGIC = b"070701"
Content = Sequence[Piece]
"""A section or addon: pieces of a file, bytes, or both."""


def content_size(content: Content) -> int:
    """Return the size of a section or addon in bytes."""
    return sum(piece.size if isinstance(piece, Span) else len(piece) for piece in content)


def stub_initrd(
    sections: Mapping[str, Content], *, ucode_addons: Sequence[Content] = (), initrd_addons: Sequence[Content] = ()
) -> tuple[Piece, ...] | None:
    """Return the initrd of a UKI whose effective sections are these, as pieces in order; None if the stub hands over none.

    ``ucode_addons`` and ``initrd_addons`` are the ``.ucode`` and ``.initrd`` sections of addons, sorted by file name. Microcode
    goes in front, in reverse, because the kernel takes the first that fits; the other addons go to the end, to win.
    """
    parts = list(reversed(ucode_addons))
    parts += [sections[name] for name in (UCODE, INITRD) if name in sections]
    parts += [_archive(name, sections[section]) for section, name in _EXTRA_FILES if section in sections]
    parts += initrd_addons
    if not parts:
        return None
    if len(parts) == 1:
        # Nothing to combine, so nothing is padded either.
        return tuple(parts[0])
    return tuple(piece for part in parts for piece in (*part, bytes(-content_size(part) % _ALIGNMENT)))


def _archive(name: str, content: Content) -> Content:
    """Return a cpio archive of one file in one folder."""
    size = content_size(content)
    head = _record(1, _FOLDER_MODE, _FOLDER, 0) + _record(2, _FILE_MODE, f"{_FOLDER}/{name}", size)
    return (head, *content, bytes(-size % _ALIGNMENT) + _TRAILER)


def _record(inode: int, mode: int, name: str, size: int) -> bytes:
    """Return a cpio header (newc): owner, times and devices 0, one link, and the padded name."""
    spelled = name.encode("ascii") + b"\0"
    values = (inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, len(spelled), 0)
    head = _CPIO_MAGIC + b"".join(b"%08x" % value for value in values) + spelled
    return head + bytes(-len(head) % _ALIGNMENT)


_TRAILER = _record(0, 0, "TRAILER!!!", 0).upper()
"""The last record. The stub writes its name size in upper case, unlike everything else."""
