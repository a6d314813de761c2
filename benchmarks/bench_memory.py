"""Idle memory of one worker: resident set of ``kbs-rim serve`` after it is ready, and after 200 challenges. Prints only."""

import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from kbs_rim.adapters.secrets.local_kek import generate_key_file
from kbs_rim.reference_verifier.signing import SigningKey

COMMAND = [sys.executable, "-m", "kbs_rim.cli"]
JWK = {
    "kty": "EC",
    "crv": "P-256",
    "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
    "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
}


def resident_mib(pid: int) -> float:
    """Return the resident set of a process in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmRSS")


def configure(folder: Path) -> Path:
    """Write keys and a configuration for a broker with free ports."""
    generate_key_file(folder / "kek")
    (folder / "ear.jwk").write_text(json.dumps(SigningKey.generate().public_jwk()))
    config = folder / "kbs_rim.toml"
    config.write_text(
        f'[http.guest]\nlisten = "127.0.0.1:0"\n[http.internal]\nlisten = "127.0.0.1:0"\n'
        f'[database]\nurl = "sqlite:///{folder}/kbs_rim.db"\n[secrets]\nkek_file = "{folder}/kek"\n'
        f'[verifier]\npinned_keys_files = ["{folder}/ear.jwk"]\n[service]\nlog_level = "warning"\n'
    )
    return config


def main() -> None:
    """Start a broker, look at it, use it a little, look again."""
    with tempfile.TemporaryDirectory() as name:
        config = configure(Path(name))
        subprocess.run([*COMMAND, "db", "upgrade", "-c", str(config)], check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        worker = subprocess.Popen([*COMMAND, "serve", "-c", str(config)], stderr=subprocess.PIPE, text=True)
        try:
            assert worker.stderr is not None
            line = next(line for line in worker.stderr if line.startswith("guests: "))
            address = line.split()[1]
            time.sleep(0.5)
            print(f"idle worker: {resident_mib(worker.pid):.1f} MiB resident (aim: under 120)")
            body = json.dumps({"pubkey": JWK}).encode()
            for _ in range(200):
                request = urllib.request.Request(f"http://{address}/keys/v1/key/k", body, {"Content-Type": "application/json"})
                urllib.request.urlopen(request).read()
            print(f"after 200 challenges: {resident_mib(worker.pid):.1f} MiB resident")
        finally:
            worker.terminate()
            worker.wait(30)


if __name__ == "__main__":
    main()
