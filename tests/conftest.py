"""Fixtures for every test."""

from pathlib import Path

import pytest

pytest_plugins = ["tests.postgres", "tests.broker_stage"]


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The folder of test vectors."""
    return Path(__file__).parent / "vectors"


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name byte strings by their argument: random ones would give every worker of a parallel run other test names."""
    return argname if isinstance(val, (bytes, bytearray)) else None
