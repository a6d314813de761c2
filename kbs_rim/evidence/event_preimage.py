"""Which bytes were hashed into an event's digest, as far as the event holds them, whatever type it claims to have.

Types, prefixes and structures of event data are the writer's words; the one thing that a digest proves is the bytes that it is the hash
of. So nothing here goes by the type: every way in which firmware, boot loaders, agents and Linux are known to take the hashed bytes out
of what they log is tried, and what remains is judged as bytes. That the same bytes come out under any label is what keeps a relabelled
event from becoming something else (TCG PC Client PFP 10.4, UEFI 2.11 section 38).
"""

import hashlib
import struct
from collections.abc import Iterator
from typing import Final

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.event_log import ImaTemplate, MeasuredEvent, OpaqueContent, TcgContent
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.evidence.ima_template import hashed_bytes
from kbs_rim.evidence.tcg_structures import parse_tagged_event, parse_variable, utf16_text

SEPARATORS: Final = (bytes(4), b"\xff" * 4)
ERROR_SEPARATOR: Final = b"\1\0\0\0"
ONE: Final = b"\1"
"""What shim measures as MokListTrusted."""
_CONSTANTS = (*SEPARATORS, ERROR_SEPARATOR, ONE)
_CONSTANT_DIGESTS = {algorithm: {algorithm.digest(constant): constant for constant in _CONSTANTS} for algorithm in HashAlgorithm}
_PREFIXES = (b"grub_cmd: ", b"kernel_cmdline: ", b"module_cmdline: ", b"grub_cmd ", b"grub_kernel_cmdline ")
"""What GRUB writes in front of the strings that it hashes; the last two are Red Hat's old GRUB."""
_VARIABLE_SIZES, _TAG_SIZE = struct.Struct("<16xQQ"), struct.Struct("<4xI")
_SLACK: Final = 16
"""More than any writer errs by with the size of a variable."""
_TD_SHIM_HEAD: Final = 20
"""td-shim writes a name of 16 bytes and a length, and hashes what follows."""


def preimage_of(event: MeasuredEvent, algorithm: HashAlgorithm) -> bytes | None:
    """Return the bytes that the digest of ``event`` in ``algorithm`` is the hash of; None if the event does not hold them.

    Costs one hash of the event's data for each way in which data are taken apart, fewer than twelve. An entry of IMA that a kernel extended
    as a padded SHA-1 digest gives its bytes too.
    """
    digest = event.digests.get(algorithm.tpm_id)
    if digest is None or not event.measured:
        return None
    if (constant := _CONSTANT_DIGESTS[algorithm].get(digest)) is not None:
        return constant
    hash_of = algorithm.constructor
    for candidate in _candidates(event):
        if hash_of(candidate).digest() == digest:
            return candidate
    if isinstance(event.content, ImaTemplate):
        return _padded_sha1(event.content, digest)
    return None


def _candidates(event: MeasuredEvent) -> Iterator[bytes]:
    content = event.content
    if isinstance(content, TcgContent):
        yield from _parts(content.data)
    elif isinstance(content, ImaTemplate):
        yield from _ima(content)
    elif isinstance(content, OpaqueContent):
        yield content.data
        yield content.type.to_bytes(4, "big")[-1:] + len(content.data).to_bytes(4, "big") + content.data


def _parts(data: bytes) -> Iterator[bytes]:
    """Yield every part of event data that somebody is known to hash: UEFI by PC Client PFP 10.4, GRUB, shim, systemd and td-shim."""
    yield data
    if not data:
        return
    if not data[-1]:
        yield data.rstrip(b"\0")
    yield data[:-1]
    yield data + b"\0"
    text = data.partition(b"\0")[0]
    for prefix in _PREFIXES:
        if text.startswith(prefix):
            yield text[len(prefix) :]
            yield text[len(prefix) :] + b"\0"
            break
    if data.startswith(b".\0"):
        name = utf16_text(data)
        if name.isascii():
            yield name.encode("ascii") + b"\0"
    for part in (_variable_data(data), _tagged_data(data)):
        if part is not None:
            yield part
    if len(data) >= _TD_SHIM_HEAD:
        yield data[_TD_SHIM_HEAD:]


def _variable_data(data: bytes) -> bytes | None:
    """Lengths are looked at first: most events are no variables, and errors that say why take longer than hashes."""
    if len(data) < _VARIABLE_SIZES.size:
        return None
    units, size = _VARIABLE_SIZES.unpack_from(data)
    if abs(_VARIABLE_SIZES.size + 2 * units + size - len(data)) > _SLACK:
        return None
    try:
        return parse_variable(data).data
    except MalformedEvidence:
        return None


def _tagged_data(data: bytes) -> bytes | None:
    if len(data) < _TAG_SIZE.size or _TAG_SIZE.size + _TAG_SIZE.unpack_from(data)[0] != len(data):
        return None
    try:
        return parse_tagged_event(data).data
    except MalformedEvidence:
        return None


def _ima(template: ImaTemplate) -> Iterator[bytes]:
    try:
        yield hashed_bytes(template)
    except MalformedEvidence:
        return


def _padded_sha1(template: ImaTemplate, digest: bytes) -> bytes | None:
    for candidate in _ima(template):
        if hashlib.sha1(candidate, usedforsecurity=False).digest().ljust(len(digest), b"\0") == digest:
            return candidate
    return None
