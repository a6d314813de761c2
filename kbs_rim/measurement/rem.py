"""Extending a realm extensible measurement as the RMM does it."""

from kbs_rim.evidence.hash_algorithm import HashAlgorithm

MAX_EXTENSION_SIZE = 64
"""RSI_MEASUREMENT_EXTEND takes at most this many bytes."""


def extend_rem(algorithm: HashAlgorithm, old: bytes, value: bytes) -> bytes:
    """Return REM' = H(REM || value) (``specs/vmm-platforms.md`` 1.9, ``specs/measurement-log.md`` 3.5).

    ``old`` is the register at the length of the realm's hash, all zeros at first; ``value`` is 0 to 64 bytes, hashed at its
    exact size without padding. Raises ``ValueError`` for other lengths.
    """
    if len(old) != algorithm.digest_size:
        raise ValueError(f"a {algorithm.value} register has {algorithm.digest_size} bytes, not {len(old)}")
    if len(value) > MAX_EXTENSION_SIZE:
        raise ValueError(f"a register is extended with at most {MAX_EXTENSION_SIZE} bytes, not {len(value)}")
    return algorithm.digest(old + value)
