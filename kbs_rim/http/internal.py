"""Health, readiness and metrics."""

from aiohttp import web

from kbs_rim import __version__
from kbs_rim.http.middleware import METRICS
from kbs_rim.services.readiness import Readiness

READINESS = web.AppKey("readiness", Readiness)
routes = web.RouteTableDef()


@routes.get("/healthz")
async def healthz(_request: web.Request) -> web.Response:
    """200 as long as the process answers; says nothing about what it depends on."""
    return web.json_response({"status": "ok", "version": __version__})


@routes.get("/readyz")
async def readyz(request: web.Request) -> web.Response:
    """200 if database, verifier and keys can be used, else 503 naming what cannot."""
    checks = await request.app[READINESS].check()
    ready = all(state == "ok" for state in checks.values())
    return web.json_response({"status": "ok" if ready else "not ready", "checks": checks}, status=200 if ready else 503)


@routes.get("/metrics")
async def metrics(request: web.Request) -> web.Response:
    """Prometheus text format."""
    body = request.app[METRICS].render()
    return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})
