"""The hash algorithms of the RMM, of TCG logs and of the CCA token, under all their names."""

import hashlib
from collections.abc import Callable
from enum import Enum
from typing import Protocol


class Hash(Protocol):
    """What we use of a ``hashlib`` object."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None: ...
    def digest(self) -> bytes: ...


class HashAlgorithm(Enum):
    """A hash the RMM can measure a realm with (RMM 1.0 RmiHashAlgorithm; SHA-384 from RMM 2.0 on).

    The value is the IANA hash function text name used in CCA claims 44236, 44240 and 2402.
    """

    SHA256 = "sha-256"
    SHA384 = "sha-384"
    SHA512 = "sha-512"

    @property
    def digest_size(self) -> int:
        """Length of a digest in bytes: 32, 48 or 64."""
        return _DIGEST_SIZE[self]

    @property
    def rmi_code(self) -> int:
        """RmiHashAlgorithm encoding: SHA-256 0, SHA-512 1, SHA-384 2 (TF-RMM)."""
        return _RMI_CODE[self]

    @property
    def tpm_id(self) -> int:
        """TPM_ALG_ID as written in TCG logs."""
        return _TPM_ID[self]

    @property
    def compact_name(self) -> str:
        """``sha256`` and so on: the spelling of TCG tools, of file formats and of our command line."""
        return self.value.replace("-", "")

    def new(self, data: bytes | bytearray | memoryview = b"") -> Hash:
        """Return a running hash, already fed with ``data``."""
        return _CONSTRUCTOR[self](data)

    def digest(self, data: bytes | bytearray | memoryview) -> bytes:
        """Return H(data)."""
        return _CONSTRUCTOR[self](data).digest()

    @property
    def constructor(self) -> Callable[[bytes | bytearray | memoryview], Hash]:
        """The ``hashlib`` constructor, for loops that cannot afford a look-up by name."""
        return _CONSTRUCTOR[self]

    @classmethod
    def from_name(cls, name: str) -> "HashAlgorithm":
        """Accept ``sha-256``, ``sha256``, ``SHA256``; raise ``ValueError`` for anything else."""
        try:
            return _BY_NAME[name.lower().replace("-", "")]
        except KeyError:
            raise ValueError(f"unknown hash algorithm {name!r}: use sha256, sha384 or sha512") from None

    @classmethod
    def from_rmi_code(cls, code: int) -> "HashAlgorithm":
        """Map a raw ``hash_algo`` field of the realm parameters; raise ``ValueError`` if the RMM knows no such code."""
        for algorithm, known in _RMI_CODE.items():
            if known == code:
                return algorithm
        raise ValueError(f"unknown RMI hash algorithm code {code}: 0 is SHA-256, 1 SHA-512, 2 SHA-384")


_DIGEST_SIZE = {HashAlgorithm.SHA256: 32, HashAlgorithm.SHA384: 48, HashAlgorithm.SHA512: 64}
_RMI_CODE = {HashAlgorithm.SHA256: 0, HashAlgorithm.SHA512: 1, HashAlgorithm.SHA384: 2}
_TPM_ID = {HashAlgorithm.SHA256: 0x000B, HashAlgorithm.SHA384: 0x000C, HashAlgorithm.SHA512: 0x000D}
_CONSTRUCTOR: dict[HashAlgorithm, Callable[[bytes | bytearray | memoryview], Hash]] = {
    HashAlgorithm.SHA256: hashlib.sha256,
    HashAlgorithm.SHA384: hashlib.sha384,
    HashAlgorithm.SHA512: hashlib.sha512,
}
_BY_NAME = {algorithm.compact_name: algorithm for algorithm in HashAlgorithm}
