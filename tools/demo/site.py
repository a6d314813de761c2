"""The installation that the demo runs: a folder, a verifier, brokers on one database, an administrator and an auditor."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from demo.processes import Processes, Service, ServiceFailed
from demo.programs import PROGRAM, Cli, short_form

_START_S = 30.0
_POLL_S = 0.05
_CONFIG = """\
# Written by the demo. Everything that is not here has its default, see config/kbs_rim.toml.
[service]
name = "{name}"
log_level = "info"
log_format = "console"

[http.guest]
listen = "127.0.0.1:0"

[http.internal]
listen = "127.0.0.1:0"

[database]
url = "sqlite:///{folder}/kbs_rim.db"

[challenge]
lifetime_s = {lifetime_s}

[secrets]
kek_file = "{folder}/kek"

[verifier]
url = "{verifier}"
pinned_keys_files = ["{folder}/verifier-key.jwk"]
"""


@dataclass(frozen=True, slots=True)
class Broker:
    """A running broker: where guests and where administrators reach it."""

    service: Service
    guest_url: str
    internal_url: str

    def peak_megabytes(self) -> float | None:
        """Return the most memory that it ever had, where the system tells."""
        try:
            status = Path(f"/proc/{self.service.process.pid}/status").read_text()
            return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
        except (OSError, StopIteration, ValueError):
            return None


class Site:
    """One installation in one folder. Everything in it is thrown away with the folder."""

    def __init__(self, folder: Path, processes: Processes, echo: Callable[[str], None]) -> None:
        self.folder = folder
        self._processes = processes
        self._echo = echo
        self._verifier: Service | None = None
        self.verifier_url = ""
        self.local = Cli(processes, echo, {"KBS_RIM_CONFIG": str(self.config("broker"))})

    def config(self, name: str) -> Path:
        """Configuration file of a broker."""
        return self.folder / f"{name}.toml"

    def person(self, name: str, broker: Broker) -> Cli:
        """Return the command line of somebody with a bearer token."""
        environment = {"KBS_RIM_URL": broker.internal_url, "KBS_RIM_TOKEN_FILE": str(self.folder / f"{name}.token")}
        return Cli(self._processes, self._echo, environment)

    # --- verifier -----------------------------------------------------------------------------------------------------

    def start_verifier(self, *options: str, key: str = "verifier") -> None:
        """Start the verifier, at the address that it had before if there was one; ``key`` names its signing key."""
        listen = urlsplit(self.verifier_url).netloc or "127.0.0.1:0"
        command = ["verifier", "--listen", listen, "--endorsements", str(self.folder / "endorsements")]
        command += ["--signing-key", str(self.folder / f"{key}.pem"), "--generate-key", "--json", *options]
        if not self.verifier_url:
            self._echo(short_form(command))
        log = self.folder / "verifier.log"
        service = self._processes.start("the verifier", [str(PROGRAM), *command], log)
        document = json.loads(service.wait_for_line('{"url"', _START_S))
        self._verifier, self.verifier_url = service, document["url"]
        if key == "verifier":
            (self.folder / "verifier-key.jwk").write_text(json.dumps(document["key"]))

    def stop_verifier(self) -> None:
        """Stop the verifier, if one runs."""
        if self._verifier is not None:
            self._processes.stop(self._verifier)
            self._verifier = None

    # --- brokers ------------------------------------------------------------------------------------------------------

    def write_config(self, name: str, *, lifetime_s: int = 120) -> None:
        """Write a broker's configuration."""
        text = _CONFIG.format(name=name, folder=self.folder, verifier=self.verifier_url, lifetime_s=lifetime_s)
        self.config(name).write_text(text)

    def start_broker(self, name: str) -> Callable[[], Broker]:
        """Start a broker; the result waits until it is ready."""
        command = ["serve", "--config", str(self.config(name))]
        self._echo(short_form(command))
        service = self._processes.start(f"the {name}", [str(PROGRAM), *command], self.folder / f"{name}.log")
        return lambda: _ready(service)


def _ready(service: Service) -> Broker:
    words = service.wait_for_line("guests: ", _START_S).split()
    broker = Broker(service, f"http://{words[1]}", f"http://{words[3]}")
    end = time.monotonic() + _START_S
    while (answer := _readiness(broker)) != 200:
        service.check()
        if time.monotonic() > end:
            raise ServiceFailed(f"{service.name} does not get ready (/readyz: {answer}):\n{service.tail()}")
        time.sleep(_POLL_S)
    return broker


def _readiness(broker: Broker) -> int:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{broker.internal_url}/readyz", timeout=10) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0
