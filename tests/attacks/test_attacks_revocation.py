"""Attacks on the moment at which trust ends, and on what one client can leave behind for the next."""

from tests.revocation_race import FINDINGS, Race


async def test_attack_revocation_race(postgres_url: str) -> None:
    """Three processes release on PostgreSQL while a fourth revokes: an image, a workload, a version, a binding."""
    race = Race(postgres_url, workers=3, rounds=len(FINDINGS))
    await race.run()
    race.check()


async def test_attack_revocation_race_on_sqlite(sqlite_url: str) -> None:
    """Two processes on one file."""
    race = Race(sqlite_url, workers=2, rounds=len(FINDINGS), seed=2)
    await race.run()
    race.check()
