"""Mirrors over HTTP: what they may do, and what is kept of them."""

import contextlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from kbs_rim.errors import OurFault, RefusedSource
from kbs_rim.image_sources import transport
from kbs_rim.image_sources.transport import Mirror
from tests.package_forge import sha256_of

FILE = b"a package " * 1000


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        if self.path.startswith("/redirect/"):
            self.send_response(302)
            self.send_header("Location", self.server.target)  # type: ignore[attr-defined]
            self.end_headers()
        elif self.path == "/d/file+1.deb":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.server.content)  # type: ignore[attr-defined]
        elif self.path == "/d/slow":
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                for byte in FILE[:200]:
                    self.wfile.write(bytes([byte]))
                    time.sleep(0.005)
        else:
            self.send_error(503 if self.path == "/d/busy" else 404)

    def log_message(self, *_: object) -> None:
        """Be quiet."""


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    made = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    made.asked, made.content, made.target = [], FILE, ""  # type: ignore[attr-defined]
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def mirror(server, cache: Path | None = None, *, offline: bool = False) -> Mirror:
    return Mirror(f"http://127.0.0.1:{server.server_port}/d", cache, offline=offline)


def known(mirror: Mirror, content: bytes = FILE, path: str = "file+1.deb") -> bytes:
    with mirror.fetch_known(path, len(content), sha256_of(content), "source.package-differs") as file:
        return file.read()


def test_a_file_is_fetched_once_and_kept_under_its_digest(server, tmp_path):
    assert known(mirror(server, tmp_path / "cache")) == FILE
    assert known(mirror(server, tmp_path / "cache")) == FILE
    assert server.asked == ["/d/file+1.deb"]
    assert known(mirror(server, tmp_path / "cache", offline=True)) == FILE
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [sha256_of(FILE)]


def test_another_file_is_refused_and_not_kept(server, tmp_path):
    server.content = FILE[:-1] + b"!"
    with pytest.raises(RefusedSource) as caught:
        known(mirror(server, tmp_path / "cache"))
    assert caught.value.finding_id == "source.package-differs"
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_mirror_that_sends_without_end_is_cut_off(server):
    server.content = FILE * 100
    with pytest.raises(RefusedSource) as caught:
        known(mirror(server))
    assert caught.value.finding_id == "source.too-large"
    with pytest.raises(RefusedSource) as caught:
        mirror(server).fetch("file+1.deb", 1000)
    assert caught.value.finding_id == "source.too-large"


def test_attack_a_mirror_that_sends_a_byte_now_and_then_is_left(server, monkeypatch):
    """Each byte comes before the time for an answer is over; the file would take years."""
    assert mirror(server).fetch("slow", 1000) == FILE[:200]
    monkeypatch.setattr(transport, "_TIMEOUT_S", 0.1)
    with pytest.raises(OurFault, match="so slowly"):
        mirror(server).fetch("slow", 1000)


def test_what_is_not_there_is_said_to_be_so_and_what_fails_is_tried_again(server):
    with pytest.raises(FileNotFoundError):
        mirror(server).fetch("none", 1000)
    with pytest.raises(OurFault, match="3 tries"):
        mirror(server).fetch("busy", 1000)
    assert server.asked.count("/d/busy") == 3
    with pytest.raises(FileNotFoundError):
        Mirror("file:///no/such/folder").fetch("x", 10)


def test_a_redirect_leads_to_no_file_of_this_machine(server, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    server.target = secret.as_uri()
    redirecting = Mirror(f"http://127.0.0.1:{server.server_port}/redirect")
    with pytest.raises(OurFault):
        redirecting.fetch("x", 1000)
    server.target = f"http://127.0.0.1:{server.server_port}/d/file+1.deb"
    assert redirecting.fetch("x", 100_000) == FILE


def test_offline_only_what_was_fetched_before_is_there(server, tmp_path):
    with pytest.raises(OurFault, match="offline"):
        mirror(server, tmp_path, offline=True).fetch("file+1.deb", 100_000)
    assert mirror(server, tmp_path).fetch("file+1.deb", 100_000) == FILE
    assert mirror(server, tmp_path, offline=True).fetch("file+1.deb", 100_000) == FILE


def test_other_schemes_are_refused():
    with pytest.raises(OurFault, match="http"):
        Mirror("ftp://mirror.example/debian")
