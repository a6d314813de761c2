"""Log lines: one form for our events and the libraries', and nothing secret in either."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from kbs_rim.observability import configure_logging


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    level = logging.root.level
    monkeypatch.setattr(logging.root, "handlers", [])  # keep pytest's own handlers out of configure_logging's hands
    yield io.StringIO()
    logging.root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def test_json_lines_carry_event_level_time_and_fields(stream: io.StringIO) -> None:
    configure_logging("info", "json", stream=stream, replica="kbs-1")
    structlog.contextvars.bind_contextvars(request_id="r1")
    structlog.get_logger("kbs_rim.test").info("release committed", key_id="k", count=2)
    logging.getLogger("aiohttp.server").warning("odd request from %s", "a peer")
    ours, theirs = (json.loads(line) for line in stream.getvalue().splitlines())
    assert ours.pop("timestamp").endswith("Z")
    assert ours == {"event": "release committed", "key_id": "k", "count": 2, "level": "info", "replica": "kbs-1", "request_id": "r1"}
    assert (theirs["event"], theirs["level"], theirs["replica"]) == ("odd request from a peer", "warning", "kbs-1")


def test_lines_below_the_level_are_dropped(stream: io.StringIO) -> None:
    configure_logging("warning", "json", stream=stream)
    structlog.get_logger("kbs_rim.test").info("quiet")
    logging.getLogger("alembic").info("quiet")
    assert stream.getvalue() == ""


@pytest.mark.parametrize("form", ["json", "console"])
def test_bytes_and_named_secrets_never_show(stream: io.StringIO, form: str) -> None:
    configure_logging("debug", form, stream=stream)
    structlog.get_logger("kbs_rim.test").info("oops", token=b"realm-token-bytes", password="hunter2", authorization="Bearer abc")
    text = stream.getvalue()
    assert "<17 bytes>" in text
    for secret in ("realm-token-bytes", "hunter2", "abc"):
        assert secret not in text


def test_console_shows_plain_tracebacks_without_local_variables(stream: io.StringIO) -> None:
    configure_logging("info", "console", stream=stream)
    hidden = "local value"
    try:
        raise ValueError(len(hidden))
    except ValueError:
        structlog.get_logger("kbs_rim.test").exception("failed")
    assert "ValueError: 11" in stream.getvalue()
    assert "hidden = " not in stream.getvalue().replace('hidden = "local value"', "")
