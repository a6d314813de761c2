"""How Veraison's HTTP layer reads ``Accept`` and ``Content-Type``, oddities included."""

from collections.abc import Sequence

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.media_type import parse_media_type

SESSION_TYPE = "application/vnd.veraison.challenge-response-session+json"
DISCOVERY_TYPE = "application/vnd.veraison.discovery+json"
CCA_EVIDENCE_TYPE = 'application/eat-collection; profile="http://arm.com/CCA-SSD/1.0.0"'


def accepts(header: str | None, offered: str) -> bool:
    """Whether ``Accept`` admits ``offered``: a byte prefix does, ``application/json`` does not, q-values are not read."""
    if header is None:
        return True
    wanted = [item.split(";", 1)[0].strip() for item in header.split(",")]
    return any(item and _admits(item, offered) for item in wanted)


def _admits(wanted: str, offered: str) -> bool:
    prefix, star, _ = wanted.partition("*")
    return offered.startswith(prefix) if star else offered.startswith(wanted)


def is_supported(media_type: str, supported: Sequence[str]) -> bool:
    """Whether a type is supported once spelled canonically; raise ``MalformedEvidence`` if it cannot be read."""
    wanted = parse_media_type(media_type)
    return any(parse_media_type(item) == wanted for item in supported)


def describe_malformed(error: MalformedEvidence) -> str:
    """Veraison's words for a ``Content-Type`` that it cannot read."""
    return f"could not check media type with verifier: invalid input parameter: {error.message}"
