"""Databases for tests: a real PostgreSQL server started here, and SQLite files. Loaded by ``tests/conftest.py``.

Ask for ``database_url`` to run a test on both engines, or for ``sqlite_url`` or ``postgres_url``: each is a fresh database
at the newest schema. ``empty_database_url`` is one without a schema.

PostgreSQL refuses to run as root, and continuous integration often is root: then the server runs as ``postgres`` or ``nobody``.
It listens on a socket in a private folder and on no port. One server for each process of the test run.
"""

import asyncio
import ctypes
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy.orm import Session

from kbs_rim.adapters.db import Store, open_store
from kbs_rim.adapters.db.migrate import upgrade

WITHOUT = "KBS_RIM_TEST_WITHOUT_POSTGRES"
_WITHOUT = "TEST_WITHOUT_POSTGRES"
# The configuration refuses KBS_RIM_* names that it does not know, so the tests must not see this one; worker processes must.
os.environ.update({_WITHOUT: os.environ.pop(WITHOUT, os.environ.get(_WITHOUT, ""))})
START_TIMEOUT_S = 30
USER = "kbs_rim"
_PR_SET_PDEATHSIG = 1
_numbers = count()


def query_plan(statement: str, parameters: tuple, session: Session) -> list[str]:
    """The steps in which SQLite would execute the statement."""
    return [row[-1] for row in session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)]


_PREFIX, _OWNER = "kbs_rim_pg_", "owner.pid"
_MEMORY, _MEMORY_BYTES = Path("/dev/shm"), 2 << 30  # a server needs less than a tenth


class PostgresServer:
    """A throw-away server. It dies with this process, even if this process is killed."""

    def __init__(self, binaries: Path) -> None:
        self._binaries = binaries
        self._account = _unprivileged_account()
        sweep()
        self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_quick_folder()))
        (self.folder / _OWNER).write_text(str(os.getpid()))
        self._process: subprocess.Popen[bytes] | None = None
        if self._account is not None:
            os.chown(self.folder, self._account.pw_uid, self._account.pw_gid)
        initdb = ("initdb", "--no-sync", "--auth=trust", f"--username={USER}", "--encoding=UTF8", "--locale=C.UTF-8", "-D", self.data)
        done = subprocess.run(self._command(*initdb), capture_output=True, text=True, **self._identity())
        if done.returncode:
            raise RuntimeError(f"initdb failed: {done.stderr}")

    @property
    def data(self) -> str:
        return str(self.folder / "data")

    def url(self, database: str) -> str:
        return f"postgresql://{USER}@/{database}?host={self.folder}"

    def start(self) -> None:
        settings = ("fsync=off", "full_page_writes=off", "listen_addresses=", "max_connections=200")
        options = [part for setting in settings for part in ("-c", setting)]
        command = self._command("postgres", "-D", self.data, "-k", str(self.folder), *options)
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=_die_with_parent, **self._identity())  # noqa: PLW1509 (no threads yet)
        self._wait()

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(timeout=30)
            self._process = None

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder)

    def _wait(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                break
            asked = self._command("pg_isready", "--quiet", "-h", str(self.folder), "-U", USER)
            if subprocess.run(asked).returncode == 0:
                return
            time.sleep(0.03)
        raise RuntimeError(f"PostgreSQL did not start: {(self.folder / 'server.log').read_text()[-2000:]}")

    def _command(self, program: str, *arguments: str) -> list[str]:
        return [str(self._binaries / program), *arguments]

    def _identity(self) -> dict:
        # The working directory must be one that the account may enter.
        identity = {"cwd": self.folder, "env": {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"}}
        if self._account is not None:
            identity |= {"user": self._account.pw_uid, "group": self._account.pw_gid, "extra_groups": []}
        return identity


def _quick_folder() -> Path | None:
    """Where making a database means no disk: most of its time goes to some hundred files. Containers often have little there."""
    roomy = _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free >= _MEMORY_BYTES
    return _MEMORY if roomy else None


def sweep(folder: Path | None = None) -> None:
    """Remove what interrupted runs left behind: their servers died with them, their folders did not."""
    folders = (folder,) if folder else (Path(tempfile.gettempdir()), _MEMORY)
    for left in (left for folder in folders for left in folder.glob(f"{_PREFIX}*")):
        try:
            owner = int((left / _OWNER).read_text())
            os.kill(owner, 0)
        except ProcessLookupError:
            shutil.rmtree(left, ignore_errors=True)
        except (OSError, ValueError):
            continue  # of another user, or being made this moment


def _unprivileged_account() -> pwd.struct_passwd | None:
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise RuntimeError("PostgreSQL does not run as root, and there is neither an account postgres nor nobody")


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)


def _binaries() -> Path | None:
    def version(path: Path) -> int:
        found = re.search(r"/(\d+)/bin/", str(path))
        return int(found[1]) if found else 0

    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=version)
    if found:
        return found[-1].parent
    other = shutil.which("postgres")
    return Path(other).parent if other else None


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A running server with a database ``template_kbs_rim`` at the newest schema."""
    binaries = _binaries()
    if binaries is None:
        if os.environ[_WITHOUT] == "1":
            pytest.skip(f"no PostgreSQL on this machine, and {WITHOUT}=1")
        pytest.fail(
            f"no PostgreSQL server in /usr/lib/postgresql or PATH: install one (Debian: postgresql), or set {WITHOUT}=1", pytrace=False
        )
    server = PostgresServer(binaries)
    try:
        server.start()
        asyncio.run(_make_template(server))
        yield server
    finally:
        server.remove()


async def _make_template(server: PostgresServer) -> None:
    await _administer(server, "CREATE DATABASE template_kbs_rim")
    await upgrade(server.url("template_kbs_rim"))


async def _administer(server: PostgresServer, statement: str) -> None:
    connection = await asyncpg.connect(host=str(server.folder), user=USER, database="postgres")
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file at the newest schema."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    asyncio.run(upgrade(f"sqlite:///{path}"))
    return path


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """A fresh SQLite database."""
    path = tmp_path / "kbs_rim.db"
    shutil.copy(sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture
async def postgres_url(postgres_server: PostgresServer) -> AsyncIterator[str]:
    """A fresh PostgreSQL database."""
    name = f"test_{next(_numbers)}"
    await _administer(postgres_server, f"CREATE DATABASE {name} TEMPLATE template_kbs_rim STRATEGY FILE_COPY")
    yield postgres_server.url(name)
    await _administer(postgres_server, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A fresh database: the test runs once for each engine."""
    return request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url")


@pytest.fixture
async def empty_postgres_url(postgres_server: PostgresServer) -> AsyncIterator[str]:
    """A PostgreSQL database without a schema."""
    name = f"empty_{next(_numbers)}"
    await _administer(postgres_server, f"CREATE DATABASE {name}")
    yield postgres_server.url(name)
    await _administer(postgres_server, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without a schema: the test runs once for each engine."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.db'}"
    return request.getfixturevalue("empty_postgres_url")


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    """An open store, once for each engine."""
    opened = open_store(database_url)
    yield opened
    await opened.close()


@pytest.fixture
async def sqlite_store(sqlite_url: str) -> AsyncIterator[Store]:
    """An open store on SQLite, for tests of what lies above the store; ``store`` tests the store itself."""
    opened = open_store(sqlite_url)
    yield opened
    await opened.close()
