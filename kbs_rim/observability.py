"""Logging: events are constants, data are fields, one line each on stderr.

Every module logs through ``structlog.get_logger()``; lines of libraries that use the standard library's logging take the same
form. Audit is not logging: what was decided and released stands in the ledger, and losing these lines loses no record.
"""

import logging
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Literal, TextIO

import structlog

_HIDDEN = frozenset({"authorization", "password", "plaintext", "private_key", "kek"})


def _without_secrets(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """Replace byte strings by their length (tokens, logs and keys are bytes here) and hide fields that name a secret."""
    for name, value in event.items():
        if name in _HIDDEN:
            event[name] = "********"
        elif isinstance(value, bytes | bytearray | memoryview):
            event[name] = f"<{len(value)} bytes>"
    return event


def configure_logging(level: str, form: Literal["json", "console"], *, stream: TextIO | None = None, **fields: Any) -> None:
    """Send everything at ``level`` (debug, info, warning, error) and above to ``stream`` (stderr) in the given form.

    ``fields`` (the replica's name, for instance) are added to every line of this process. Call it once, at start.
    """
    target = sys.stderr if stream is None else stream

    def with_fields(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
        return {**fields, **event}

    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        with_fields,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _without_secrets,
    ]
    renderer: structlog.typing.Processor
    if form == "json":
        shared.append(structlog.processors.format_exc_info)
        renderer = structlog.processors.JSONRenderer(default=str)
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=target.isatty(), exception_formatter=structlog.dev.plain_traceback)
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer], foreign_pre_chain=shared
        )
    )
    logging.basicConfig(handlers=[handler], level=threshold, force=True)
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
