"""A broker for the commands that need one; the environment is an administrator's."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli_broker import running_broker


@pytest.fixture
def broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Path]:
    """The folder with the broker's files and tokens."""
    with running_broker(tmp_path, capsys) as service:
        monkeypatch.setenv("KBS_RIM_URL", "http://{}:{}".format(*service.internal_address))
        monkeypatch.setenv("KBS_RIM_TEST_GUESTS_URL", "http://{}:{}".format(*service.guest_address))
        monkeypatch.setenv("KBS_RIM_TOKEN_FILE", str(tmp_path / "admin"))
        yield tmp_path
