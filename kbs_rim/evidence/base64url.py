"""base64url as RFC 4648 section 5 without padding, read strictly: one spelling for each byte string.

Lenient decoders drop foreign characters, accept padding and ignore the unused low bits of the last character, so that
several texts mean the same bytes. What is hashed or compared as text must not have that freedom.
"""

import base64
import binascii

from kbs_rim.errors import MalformedEvidence

_PIECE = 64 * 1024
"""Characters that are decoded at once, a multiple of 4: the library keeps the interpreter's lock, and others wait for it."""
_TO_STANDARD = bytes.maketrans(b"-_+/=", b"+/!!!")
"""To the alphabet that the library reads; its own letters and the padding become one that it refuses."""


def encode(data: bytes) -> str:
    """Return ``data`` in the base64url alphabet without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def decode(text: str | bytes, *, what: str = "a base64url field") -> bytes:
    """Return the bytes that ``text`` spells; ``what`` names the field in the error.

    Raises ``MalformedEvidence("envelope.base64")`` for padding, white space, a character outside the alphabet, an
    impossible length, and for unused trailing bits that are not zero (RFC 4648 section 3.5).
    """
    try:
        given = text.encode("ascii") if isinstance(text, str) else text
        return b"".join([_decode_piece(given[at : at + _PIECE], what) for at in range(0, len(given), _PIECE)])
    except (UnicodeEncodeError, binascii.Error):
        raise _refusal(what) from None


def _decode_piece(given: bytes, what: str) -> bytes:
    odd = len(given) % 4
    data = binascii.a2b_base64(given.translate(_TO_STANDARD) + b"=" * (-odd % 4), strict_mode=True)
    # Strict mode does not look at unused bits: only the canonical spelling survives the way back.
    if odd and encode(data[1 - odd :]).encode("ascii") != given[-odd:]:
        raise _refusal(what)
    return data


def _refusal(what: str) -> MalformedEvidence:
    return MalformedEvidence("envelope.base64", f"{what} is not canonical base64url without padding")
