"""Whether this replica can do its work: database, external verifier, key-encryption key."""

import asyncio
from collections.abc import Awaitable

from kbs_rim.errors import OurFault
from kbs_rim.ports import Health, KeyEncryptionKey, PlatformVerifier

_CHECK_TIMEOUT_S = 5
_PROBE = bytes(32)


class Readiness:
    """Runs the three checks side by side; each gives ``ok`` or a short reason without addresses or secrets."""

    def __init__(self, *, health: Health, verifier: PlatformVerifier, kek: KeyEncryptionKey) -> None:
        """Take the ports that are checked."""
        self._health, self._verifier, self._kek = health, verifier, kek

    async def check(self) -> dict[str, str]:
        """Return what each dependency says."""
        names = ("database", "verifier", "keys")
        results = await asyncio.gather(
            self._bounded(self._health.check_store()), self._bounded(self._verifier.check()), self._bounded(self._check_keys())
        )
        return dict(zip(names, results, strict=True))

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
        except OurFault:
            return "unavailable"
        return "ok"
