"""A broker on loopback for commands of administrators, and a way to run those commands."""

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import structlog

from kbs_rim import wiring
from kbs_rim.adapters.secrets.local_kek import generate_key_file
from kbs_rim.cli import main
from kbs_rim.reference_verifier.signing import SigningKey
from kbs_rim.settings import (
    DatabaseSettings,
    GuestListenerSettings,
    HttpSettings,
    InternalListenerSettings,
    SecretsSettings,
    Settings,
    VerifierSettings,
)


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    out, err = capsys.readouterr()
    return ended.value.code, out, err


@contextmanager
def running_broker(folder: Path, capsys) -> Iterator[wiring.Service]:
    """Serve in a thread of its own, with tokens in the files ``admin`` and ``auditor`` of ``folder``."""
    generate_key_file(folder / "kek")
    (folder / "verifier.jwk").write_text(json.dumps(SigningKey.generate().public_jwk()))
    url = f"sqlite:///{folder}/kbs_rim.db"
    settings = Settings(
        http=HttpSettings(guest=GuestListenerSettings(listen="127.0.0.1:0"), internal=InternalListenerSettings(listen="127.0.0.1:0")),
        database=DatabaseSettings(url=url),
        secrets=SecretsSettings(kek_file=folder / "kek"),
        verifier=VerifierSettings(pinned_keys_files=(folder / "verifier.jwk",)),
    )
    assert run(capsys, "db", "upgrade", "--database-url", url)[0] == 0
    for role in ("admin", "auditor"):
        code, token, _ = run(capsys, "principal", "add", role, "--role", role, "--database-url", url)
        assert code == 0
        (folder / role).write_text(token)
    loop, stop, started = asyncio.new_event_loop(), asyncio.Event(), threading.Event()
    services: list[wiring.Service] = []

    async def serve() -> None:
        async with wiring.running(settings) as service:
            services.append(service)
            started.set()
            await stop.wait()

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert started.wait(10)
        yield services[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
        structlog.reset_defaults()
