"""Whether this replica can do its work: database, external verifier, key-encryption key."""

import asyncio
from collections.abc import Awaitable, Collection

from kbs_rim.appraisal.ear_signature import EarKey
from kbs_rim.errors import InvalidDocument, OurFault
from kbs_rim.ports import Health, KeyEncryptionKey, PlatformVerifier

_CHECK_TIMEOUT_S = 5
_PROBE = bytes(32)


class _KeyNotPinned(OurFault):
    """The verifier answers, and nothing that it signs would be believed."""


class Readiness:
    """Runs the three checks side by side; each gives ``ok`` or a short reason without addresses or secrets."""

    def __init__(self, *, health: Health, verifier: PlatformVerifier, kek: KeyEncryptionKey, pinned: Collection[str] = frozenset()) -> None:
        """Take the ports that are checked. ``pinned`` are thumbprints (RFC 7638) of the verifier's keys; none: any key will do."""
        self._health, self._verifier, self._kek, self._pinned = health, verifier, kek, frozenset(pinned)

    async def check(self) -> dict[str, str]:
        """Return what each dependency says."""
        names = ("database", "verifier", "keys")
        results = await asyncio.gather(
            self._bounded(self._health.check_store()), self._bounded(self._check_verifier()), self._bounded(self._check_keys())
        )
        return dict(zip(names, results, strict=True))

    async def _check_verifier(self) -> None:
        """A verifier need not publish its key; one that does, and has none of ours, signs results that refuse every realm."""
        advertised = set()
        for jwk in await self._verifier.check():
            try:
                advertised.add(EarKey.from_jwk(jwk).thumbprint)
            except InvalidDocument:
                continue  # no key that could have been pinned
        if self._pinned and advertised and not advertised & self._pinned:
            raise _KeyNotPinned("none of the verifier's keys is pinned")

    async def _check_keys(self) -> None:
        wrapped = await self._kek.wrap(_PROBE, b"readiness")
        if await self._kek.unwrap(self._kek.id, wrapped, b"readiness") != _PROBE:
            raise OurFault("the key-encryption key does not unwrap what it wrapped")

    @staticmethod
    async def _bounded(check: Awaitable[None]) -> str:
        try:
            async with asyncio.timeout(_CHECK_TIMEOUT_S):
                await check
        except TimeoutError:
            return "no answer in time"
        except _KeyNotPinned:
            return "its key is not pinned"
        except OurFault:
            return "unavailable"
        return "ok"
