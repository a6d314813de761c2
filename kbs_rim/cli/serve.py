"""``kbs-rim serve``: run the broker."""

import asyncio
import os
import signal
import socket
from pathlib import Path

import click

from kbs_rim.config import load_settings
from kbs_rim.settings import Settings


@click.command(name="serve")
@click.option("-c", "--config", type=click.Path(path_type=Path), help="Configuration file (KBS_RIM_CONFIG).")
def command(config: Path | None) -> None:
    """Run the broker until SIGTERM or SIGINT; requests in flight are finished."""
    from kbs_rim.observability import configure_logging

    settings = load_settings(config).settings
    configure_logging(settings.service.log_level, settings.service.log_format, service=settings.service.name)
    asyncio.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    from kbs_rim.wiring import prepare_process, running

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running(settings) as service:
        prepare_process()
        click.echo(f"guests: {_url(service.guest_address)}  administration: {_url(service.internal_address)}", err=True)
        _notify("READY=1")
        await stop.wait()
        _notify("STOPPING=1")


def _url(address: tuple[str, int]) -> str:
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"{host}:{address[1]}"


def _notify(state: str) -> None:
    """Tell systemd, if it listens (sd_notify(3))."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifier:
        notifier.sendto(state.encode(), "\0" + path[1:] if path.startswith("@") else path)
