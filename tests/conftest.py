"""Fixtures for every test."""

from pathlib import Path

import pytest

pytest_plugins = ["tests.postgres", "tests.broker_stage"]


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The folder of test vectors."""
    return Path(__file__).parent / "vectors"
