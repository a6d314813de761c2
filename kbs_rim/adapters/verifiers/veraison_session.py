"""A challenge-response session of Veraison, read from JSON that was checked already."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kbs_rim.appraisal.annotated_evidence import decode_base64
from kbs_rim.errors import MalformedEvidence, VerifierUnavailable
from kbs_rim.evidence.media_type import MediaType, parse_media_type

_MAX_TYPES = 256


@dataclass(frozen=True, slots=True)
class VerifierSession:
    """What a client needs of a session. ``nonce`` is decoded, whichever alphabet the release writes it in."""

    status: str
    nonce: bytes | None
    accept: tuple[str, ...]
    result: str | None

    def spelling_of(self, wanted: MediaType) -> str | None:
        """Return the verifier's own spelling of ``wanted``, or None if it does not take that type."""
        for offered in self.accept:
            try:
                if parse_media_type(offered) == wanted:
                    return offered
            except MalformedEvidence:
                continue  # types of other schemes need not make sense to us
        return None


def read_session(document: Mapping[str, Any]) -> VerifierSession:
    """Read a session document; raise ``VerifierUnavailable``. Early documentation calls the status ``state``."""
    status = document.get("status", document.get("state"))
    if status not in ("waiting", "processing", "complete", "failed"):
        raise VerifierUnavailable("the verifier's session has no known status")
    nonce, accept, result = document.get("nonce"), document.get("accept"), document.get("result")
    types = accept if isinstance(accept, list) else []
    return VerifierSession(
        status=status,
        nonce=decode_base64(nonce) if isinstance(nonce, str) else None,
        accept=tuple(item for item in types[:_MAX_TYPES] if isinstance(item, str)),
        result=result if isinstance(result, str) else None,
    )
