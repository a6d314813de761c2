"""The administrator's and auditor's connection to a broker, and the options that every such command takes."""

import json
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table

from kbs_rim.errors import OurFault, TheirFault
from kbs_rim.tls_files import client_context

_F = TypeVar("_F", bound=Callable[..., Any])
_TIMEOUT_S = 60
_MAX_ANSWER_BYTES = 64 * 1024 * 1024
_UNFOLDED_WIDTH = 1000
DEFAULT_URL = "http://127.0.0.1:8089"


class AdminClient:
    """Speaks to the internal listener. Every answer is JSON; every refusal becomes an error with the server's code."""

    def __init__(self, url: str, token: str, ca_file: Path | None = None) -> None:
        """``token`` is the bearer token; ``ca_file`` replaces the system's certificate authorities."""
        self._url = url.rstrip("/")
        self._token = token
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({}), _NoRedirect()]
        if self._url.startswith("https://"):
            handlers.append(urllib.request.HTTPSHandler(context=client_context(ca_file, option="--ca-file")))
        self._opener = urllib.request.build_opener(*handlers)

    def get(self, path: str, query: Mapping[str, Any] | None = None) -> Any:
        """GET a JSON document; members of ``query`` that are None are left out."""
        given = {name: value for name, value in (query or {}).items() if value is not None}
        return json.loads(self._send("GET", _quoted(path) + ("?" + urllib.parse.urlencode(given) if given else ""), None))

    def pages(self, path: str, member: str, *, query: Mapping[str, Any] | None = None, limit: int | None = None) -> Iterator[Any]:
        """Yield items of a paged listing, at most ``limit`` of them, following the ``next`` cursor."""
        cursor, left = None, limit
        while left is None or left > 0:
            size = 100 if left is None else min(left, 100)
            answer = self.get(path, {**(query or {}), "cursor": cursor, "limit": size})
            yield from answer[member]
            cursor = answer["next"]
            left = None if left is None else left - len(answer[member])
            if cursor is None:
                return

    def get_bytes(self, path: str) -> bytes:
        """GET raw bytes."""
        return self._send("GET", _quoted(path), None)

    def send(self, method: str, path: str, document: Any) -> Any:
        """POST or PUT a JSON document and return the JSON answer."""
        return json.loads(self._send(method, _quoted(path), json.dumps(document).encode()))

    def _send(self, method: str, path: str, body: bytes | None) -> bytes:
        headers = {"Authorization": f"Bearer {self._token}", "Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        request = urllib.request.Request(self._url + path, data=body, headers=headers, method=method)  # noqa: S310 - checked in connect()
        try:
            with self._opener.open(request, timeout=_TIMEOUT_S) as response:
                answer: bytes = response.read(_MAX_ANSWER_BYTES)
                return answer
        except urllib.error.HTTPError as error:
            raise _error_of(error) from None
        except (urllib.error.URLError, TimeoutError, OSError) as error:
            reason = getattr(error, "reason", error)
            raise OurFault(
                f"cannot reach the broker at {self._url}: {reason}. Set KBS_RIM_URL or --url to its internal listener."
            ) from None


def _quoted(path: str) -> str:
    """Names come from the command line: what is no path character must not become a query, a header or an exception."""
    return urllib.parse.quote(path, safe="/:")


_NO_ROUTE = frozenset({"404: Not Found", "Not Found"})
"""What the guests' listener says to an administrator; a thing that is not there is described in other words."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        """Never carry a bearer token to another place."""


def _error_of(error: urllib.error.HTTPError) -> Exception:
    try:
        document = json.loads(error.read(65536))
        code, detail = str(document["code"]), str(document["detail"])
    except (ValueError, KeyError, TypeError):
        code, detail = "http", f"the broker answered {error.code}"
    if error.code >= 500:
        return OurFault(f"{detail} ({code})")
    if code == "http" or detail in _NO_ROUTE:
        return OurFault(
            f"what answers at {urllib.parse.urlsplit(error.url)._replace(path='', query='').geturl()} is no broker for administrators"
            f" (HTTP {error.code}). Set KBS_RIM_URL or --url to the internal listener (http.internal, port 8089 unless configured)."
        )
    return TheirFault(code, detail)


def connected(command: _F) -> _F:
    """Add ``--url``, ``--token-file`` and ``--ca-file``; the command gets them as keyword arguments for ``connect``."""
    options = (
        click.option(
            "--url", envvar="KBS_RIM_URL", default=DEFAULT_URL, show_default=True, help="Internal listener of the broker (KBS_RIM_URL)."
        ),
        click.option(
            "--token-file",
            envvar="KBS_RIM_TOKEN_FILE",
            type=click.Path(path_type=Path),
            help="File with the bearer token (KBS_RIM_TOKEN_FILE); or set KBS_RIM_TOKEN.",
        ),
        click.option(
            "--ca-file",
            envvar="KBS_RIM_CA_FILE",
            type=click.Path(path_type=Path),
            help="Certificate authorities to trust (KBS_RIM_CA_FILE).",
        ),
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def connect(url: str, token_file: Path | None, ca_file: Path | None) -> AdminClient:
    """Open the connection that the common options describe; raise ``click.UsageError`` for what is missing."""
    import os

    if not url.startswith(("http://", "https://")):
        raise click.UsageError("--url must begin with http:// or https://")
    token = token_file.read_text().strip() if token_file else os.environ.get("KBS_RIM_TOKEN", "").strip()
    if not token:
        raise click.UsageError("no bearer token: set KBS_RIM_TOKEN or KBS_RIM_TOKEN_FILE, or pass --token-file (see kbs-rim principal add)")
    return AdminClient(url, token, ca_file)


def print_json(document: Any) -> None:
    """Print a document on stdout, indented."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def print_table(title: str, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Print a table on stdout. Values are printed as text, never as markup; into a pipe or file no line is folded."""
    from rich.text import Text

    table = Table(title=title or None, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if value is None else str(value)) for value in row))
    if not table.row_count:
        table.add_row(Text("none"))
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _UNFOLDED_WIDTH)
    with console.capture() as capture:
        console.print(table)
    click.echo("\n".join(line.rstrip() for line in capture.get().splitlines()))
