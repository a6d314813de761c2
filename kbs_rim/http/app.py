"""The two aiohttp applications: one for guests, one for everybody who must not be a guest."""

import logging
from concurrent.futures import Executor

from aiohttp import web
from aiohttp.http import HttpProcessingError

from kbs_rim.http import admin, audit, internal, keybroker
from kbs_rim.http.auth import PRINCIPALS, authenticate
from kbs_rim.http.metrics import Metrics
from kbs_rim.http.middleware import METRICS, RECEIVING, observe
from kbs_rim.http.receiving import Receiving
from kbs_rim.limits import Limits
from kbs_rim.services.audit import Auditor
from kbs_rim.services.broker import Broker
from kbs_rim.services.explanation import Explainer
from kbs_rim.services.principals import Principals
from kbs_rim.services.readiness import Readiness
from kbs_rim.services.registry import Registry
from kbs_rim.services.secrets import SecretVault


def guest_app(broker: Broker, limits: Limits, metrics: Metrics, *, public_url: str = "") -> web.Application:
    """Return the application that realms talk to. ``public_url`` is the origin written into Location headers."""
    app = web.Application(middlewares=[observe], client_max_size=limits.body_bytes)
    app[keybroker.BROKER] = broker
    app[keybroker.LIMITS] = limits
    app[keybroker.PUBLIC_URL] = public_url.rstrip("/")
    app[METRICS] = metrics
    app[RECEIVING] = Receiving(limits.receiving_bytes)
    app.add_routes(keybroker.routes)
    return app


def internal_app(
    *,
    registry: Registry,
    vault: SecretVault,
    auditor: Auditor,
    explainer: Explainer,
    principals: Principals,
    readiness: Readiness,
    limits: Limits,
    metrics: Metrics,
    reading: Executor | None = None,
) -> web.Application:
    """Return the application for administrators, auditors and the machinery that watches the service.

    ``reading`` takes large bodies apart and puts large answers together, beside the event loop.
    """
    app = web.Application(middlewares=[observe, authenticate], client_max_size=limits.admin_body_bytes)
    app[METRICS] = metrics
    app[PRINCIPALS] = principals
    app[internal.READINESS] = readiness
    app[admin.REGISTRY] = registry
    app[admin.VAULT] = vault
    app[admin.LIMITS] = limits
    app[admin.READING] = reading
    app[audit.AUDITOR] = auditor
    app[audit.EXPLAINER] = explainer
    app.add_routes(internal.routes)
    app.add_routes(admin.routes)
    app.add_routes(audit.routes)
    return app


def server_logger() -> logging.Logger:
    """Return the logger for aiohttp's server.

    Bytes that are not HTTP are no error of ours: a stranger must not fill the log with tracebacks.
    """
    logger = logging.getLogger("aiohttp.server")
    if not any(isinstance(known, _NotHttp) for known in logger.filters):
        logger.addFilter(_NotHttp())
    return logger


class _NotHttp(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], HttpProcessingError):
            record.levelno, record.levelname = logging.INFO, "INFO"
            record.msg, record.args, record.exc_info = "a request that is not HTTP was refused", (), None
        return True
