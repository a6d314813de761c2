"""Lies that a host tells in the log alone."""

import struct

from kbs_rim.realm.log_emitter import CreateRecord, LogRecord, RawRecord, RipasRecord

BOMB_SIZE = 1024 * 1024
_EMPTY_RECORD = struct.pack("<IIII", 0, 0x3, 0, 0)
_MARGIN = 64 * 1024

Records = tuple[LogRecord, ...]


def without_create(records: Records) -> Records:
    """Leave REALM_CREATE out."""
    return tuple(record for record in records if not isinstance(record, CreateRecord))


def huge_event(records: Records) -> Records:
    """Append a record whose event size is 2^32 - 16."""
    return (*records, RawRecord(struct.pack("<IIII", 0, 0x13, 0, 0xFFFFFFF0)))


def many_digests(records: Records) -> Records:
    """Append a record with 2^32 - 1 digests."""
    return (*records, RawRecord(struct.pack("<III", 0, 0x13, 0xFFFFFFFF)))


def many_records(records: Records) -> Records:
    """Append as many empty records as a megabyte holds."""
    return (*records, RawRecord(_EMPTY_RECORD * ((BOMB_SIZE - _MARGIN) // len(_EMPTY_RECORD))))


def huge_ripas(records: Records) -> Records:
    """Let INIT_RIPAS cover 2^60 bytes."""
    return tuple(RipasRecord(record.base, 1 << 60) if isinstance(record, RipasRecord) else record for record in records)
