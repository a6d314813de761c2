"""Veraison's discovery document, read from JSON that was checked for size and duplicates already."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from yarl import URL

from kbs_rim.errors import VerifierUnavailable

_DEFAULT_MAX_AGE_S, _LONGEST_MAX_AGE_S = 60, 3600
_MAX_AGE = re.compile(r"(?:^|[,\s])max-age=(\d{1,9})(?:$|[,\s])", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Discovery:
    """Where to open sessions and which keys the verifier advertises. Times are of the monotonic clock, in seconds."""

    new_session: URL
    keys: tuple[Mapping[str, Any], ...]
    fetched_at: float
    expires_at: float


def read_discovery(document: Mapping[str, Any], base: URL, cache_control: str | None, now: float) -> Discovery:
    """Read the document; raise ``VerifierUnavailable`` if the verifier is not ready or points to another host."""
    state = document.get("service-state", "READY")
    if state != "READY":
        raise VerifierUnavailable(f"the verifier is not ready: {ascii(state)[:40]}")
    endpoints = document.get("api-endpoints")
    path = endpoints.get("newChallengeResponseSession") if isinstance(endpoints, Mapping) else None
    if not isinstance(path, str) or not path:
        raise VerifierUnavailable("the verifier's discovery document names no endpoint for sessions")
    endpoint = resolve(base, path)
    if endpoint is None:
        raise VerifierUnavailable("the verifier's discovery document points to another host")
    key = document.get("ear-verification-key")
    keys = (key,) if isinstance(key, Mapping) else ()
    return Discovery(endpoint, keys, now, now + _max_age(cache_control))


def resolve(base: URL, reference: str) -> URL | None:
    """Resolve a reference against ``base``; None if it leads to another scheme, host or port: nothing is sent there."""
    try:
        url = base.join(URL(reference)).with_fragment(None)
    except ValueError:
        return None
    return url if (url.scheme, url.host, url.port) == (base.scheme, base.host, base.port) and not url.user else None


def _max_age(cache_control: str | None) -> int:
    found = _MAX_AGE.search(cache_control or "")
    return min(int(found.group(1)), _LONGEST_MAX_AGE_S) if found else _DEFAULT_MAX_AGE_S
