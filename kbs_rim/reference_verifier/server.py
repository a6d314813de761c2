"""Run the reference verifier as a process: listen, say so, and stop cleanly on SIGTERM or SIGINT."""

import asyncio
import signal
import ssl
from collections.abc import Callable
from ipaddress import ip_address

from aiohttp import web

from kbs_rim.reference_verifier.app import Settings, make_app

_SHUTDOWN_S = 5.0
_BACKLOG = 128


async def serve(settings: Settings, host: str, port: int, *, on_ready: Callable[[str], None], tls: ssl.SSLContext | None = None) -> None:
    """Serve until a signal comes; requests in flight are finished. ``on_ready`` gets the URL (port 0 picks a free one).

    Raises ``OSError`` if the address cannot be listened on.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    runner = web.AppRunner(make_app(settings), access_log=None, shutdown_timeout=_SHUTDOWN_S)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, ssl_context=tls, backlog=_BACKLOG)
        await site.start()
        on_ready(_url(runner, tls))
        await stop.wait()
    finally:
        await runner.cleanup()


def _url(runner: web.AppRunner, tls: ssl.SSLContext | None) -> str:
    host, port = runner.addresses[0][:2]
    shown = f"[{host}]" if ip_address(host).version == 6 else host
    return f"{'http' if tls is None else 'https'}://{shown}:{port}"
