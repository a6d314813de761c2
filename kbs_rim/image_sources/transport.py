"""Fetching from mirrors, which are not trusted: sizes are bounded, and what is kept is hashed again before it is used.

Files whose digest was signed are kept under it. A release file is kept under a name made from its URL, for use offline; its
signature, and whether it is older than one seen before, is judged by those who ask for it.
"""

import hashlib
import http.client
import re
import shutil
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO

from kbs_rim.errors import OurFault, RefusedSource
from kbs_rim.image_sources.byte_streams import CHUNK_BYTES, HashingReader

_TIMEOUT_S = 60
_SLOWEST_BYTES_S = 4096
"""A mirror that is slower than this, after its first minute, never ends: 50 MiB would take four hours."""
_TRIES = 3
_SCHEMES = ("http", "https", "file")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_AGENT = "kbs-rim (image sources)"


class _SameKind(urllib.request.HTTPRedirectHandler):
    """A mirror may send us to another server, but never to a file of this machine."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        """Follow HTTP to HTTP or HTTPS, and HTTPS to HTTPS."""
        allowed = ("https",) if req.type == "https" else ("http", "https")
        if urllib.parse.urlsplit(newurl).scheme not in allowed:
            raise urllib.error.HTTPError(newurl, code, "the mirror redirects to another scheme", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class Mirror:
    """Fetches files below a URI. Proxies are those of the environment (``http_proxy`` and so on).

    ``cache`` is a folder of files by SHA-256, None for none. ``offline`` fetches nothing: what is not in the cache is missing.
    """

    def __init__(self, uri: str, cache: Path | None = None, *, offline: bool = False) -> None:
        """Raises ``OurFault`` for a URI of another scheme than http, https and file."""
        if urllib.parse.urlsplit(uri).scheme not in _SCHEMES:
            raise OurFault(f"a repository's URI begins with http://, https:// or file://, not {uri[:80]!r}")
        self._uri = uri.rstrip("/")
        self._cache = cache
        self._offline = offline
        self._opener = urllib.request.build_opener(_SameKind())

    def fetch(self, path: str, max_bytes: int) -> bytes:
        """Return a file whose digest nobody has told yet; offline, as it was last time.

        Raises ``RefusedSource`` (``source.too-large``), ``OurFault``, ``FileNotFoundError``.
        """
        latest = None if self._cache is None else self._cache / f"latest-{hashlib.sha256(self._url(path).encode()).hexdigest()}"
        if self._offline and latest is not None and latest.is_file():
            with latest.open("rb") as kept:
                return kept.read(max_bytes)
        with self._new_file() as target:
            self._download(path, target, max_bytes, lambda count: None)
            if latest is not None:
                self._keep(target, latest)
            target.seek(0)
            return target.read()

    def fetch_known(
        self, path: str, size: int, sha256: str, finding_id: str, progress: Callable[[int], None] = lambda count: None
    ) -> IO[bytes]:
        """Return a file whose size and digest were signed, at its beginning. It comes from the cache if it is there.

        Raises ``RefusedSource`` with ``finding_id`` if the mirror has another one, ``OurFault``, ``FileNotFoundError``.
        """
        if not _SHA256.fullmatch(sha256):
            raise RefusedSource(finding_id, "a digest is not written as a SHA-256", seen=sha256[:80])
        kept = self._kept(size, sha256)
        if kept is not None:
            return kept
        target = self._new_file()
        try:
            self._download(path, target, size, progress)
            _check(target, path, size, sha256, finding_id)
        except BaseException:  # whatever ends it, an interrupt too: no open file is left, and it goes on
            target.close()
            raise
        if self._cache is not None:
            self._keep(target, self._cache / sha256)
        target.seek(0)
        return target

    def _keep(self, file: IO[bytes], path: Path) -> None:
        """Put a copy into the cache, whole or not at all."""
        file.seek(0)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix="partial-", delete=False) as copy:
            shutil.copyfileobj(file, copy, CHUNK_BYTES)
        Path(copy.name).replace(path)

    def _url(self, path: str) -> str:
        return f"{self._uri}/{urllib.parse.quote(path, safe='/+~:')}"

    def _kept(self, size: int, sha256: str) -> IO[bytes] | None:
        """Open the cached file, and forget it if it is not what its name says."""
        if self._cache is None:
            return None
        path = self._cache / sha256
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return None
        try:
            _check(file, path.name, size, sha256, "source.package-differs")
        except RefusedSource:
            file.close()
            path.unlink(missing_ok=True)
            return None
        file.seek(0)
        return file

    def _new_file(self) -> IO[bytes]:
        if self._cache is None:
            return tempfile.TemporaryFile()
        self._cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        return tempfile.TemporaryFile(dir=self._cache)

    def _download(self, path: str, target: IO[bytes], max_bytes: int, progress: Callable[[int], None]) -> None:
        url = self._url(path)
        if self._offline and not url.startswith("file:"):
            raise OurFault(f"{url} is not at hand, and nothing is fetched offline")
        for _ in range(_TRIES):
            try:
                target.seek(0)
                target.truncate()
                self._copy(url, target, max_bytes, progress)
                return
            except urllib.error.HTTPError as error:
                error.close()
                if error.code in (404, 410):
                    raise FileNotFoundError(2, "the mirror does not have it", url) from None
                problem: Exception = error
            except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
                reason = getattr(error, "reason", error)
                if isinstance(reason, FileNotFoundError):
                    raise FileNotFoundError(2, "the mirror does not have it", url) from None
                problem = error
        raise OurFault(f"{url} could not be fetched in {_TRIES} tries: {problem}")

    def _copy(self, url: str, target: IO[bytes], max_bytes: int, progress: Callable[[int], None]) -> None:
        request = urllib.request.Request(url, headers={"User-Agent": _AGENT})  # noqa: S310 - the scheme was checked
        with self._opener.open(request, timeout=_TIMEOUT_S) as answer:
            seen, started = 0, time.monotonic()
            while chunk := answer.read1(CHUNK_BYTES):  # what is there: a whole chunk may take a slow mirror months
                seen += len(chunk)
                if time.monotonic() - started > _TIMEOUT_S + seen / _SLOWEST_BYTES_S:
                    raise OurFault(f"{url} comes so slowly that it never ends: {seen} bytes in {time.monotonic() - started:.0f} s")
                if seen > max_bytes:
                    raise RefusedSource("source.too-large", f"{url} is larger than it may be", expected=f"at most {max_bytes} bytes")
                target.write(chunk)
                progress(len(chunk))


def _check(file: IO[bytes], name: str, size: int, sha256: str, finding_id: str) -> None:
    file.seek(0)
    hashing = HashingReader(file)
    digest, seen = hashing.finish(), hashing.size
    if (seen, digest) != (size, sha256):
        raise RefusedSource(
            finding_id, f"{name} is not what was signed", expected=f"{size} bytes, sha256 {sha256}", seen=f"{seen} bytes, sha256 {digest}"
        )
