"""Fixtures for every test."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.rounds import rounds

# No timed asserts: a busy machine is no defect. In CI the examples are the same in every run of one version.
settings.register_profile(
    "kbs_rim",
    max_examples=rounds(60),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")),
)
settings.load_profile("kbs_rim")

pytest_plugins = ["tests.postgres", "tests.broker_stage"]


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The folder of test vectors."""
    return Path(__file__).parent / "vectors"


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name byte strings by their argument: random ones would give every worker of a parallel run other test names."""
    return argname if isinstance(val, (bytes, bytearray)) else None
