"""``kbs-rim db`` and ``kbs-rim principal``: what scripts rely on."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from kbs_rim.adapters.db.models import SCHEMA_VERSION
from kbs_rim.cli import main


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    def run_command(*arguments: str | Path) -> Done:
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        return Done(left.value.code, *capsys.readouterr())

    return run_command


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'kbs_rim.db'}"


def test_a_database_is_made_migrated_and_judged(run: Callable[..., Done], url: str) -> None:
    missing = run("db", "current", "--url", url)
    assert missing.returncode == 2
    assert len(missing.stderr.splitlines()) == 1
    made = run("db", "upgrade", "--url", url, "--json")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout) == {"before": None, "after": SCHEMA_VERSION}
    assert run("db", "upgrade", "--url", url).stdout == f"schema {SCHEMA_VERSION}, nothing to do\n"
    current = run("db", "current", "--url", url)
    assert (current.returncode, current.stdout, current.stderr) == (0, f"{SCHEMA_VERSION}\n", "")


def test_an_empty_database_cannot_be_served(run: Callable[..., Done], tmp_path: Path) -> None:
    (tmp_path / "empty.db").write_bytes(b"")
    found = run("db", "current", "--json", "--url", f"sqlite:///{tmp_path / 'empty.db'}")
    assert found.returncode == 1
    assert json.loads(found.stdout) == {"schema": None, "needed": SCHEMA_VERSION}


def test_the_configuration_names_the_database(run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str) -> None:
    config = tmp_path / "kbs_rim.toml"
    config.write_text(f'[database]\nurl = "{url}"\n')
    assert run("db", "upgrade", "-c", config).returncode == 0
    monkeypatch.setenv("KBS_RIM_CONFIG", str(config))
    assert run("db", "current").returncode == 0
    monkeypatch.delenv("KBS_RIM_CONFIG")
    assert run("principal", "list", "--config", config).returncode == 0
    assert run("db", "current", "-c", config, "--url", url).returncode == 64
    assert run("db", "current", "--url", "mysql://h/d").returncode == 2


def test_a_principal_is_added_listed_and_revoked(run: Callable[..., Done], url: str) -> None:
    run("db", "upgrade", "--url", url)
    added = run("principal", "add", "ada", "--role", "admin", "--expires", "30", "--url", url)
    assert added.returncode == 0, added.stderr
    [token] = added.stdout.splitlines()
    assert token.startswith("kbsrim_")
    assert token not in added.stderr
    again = run("principal", "add", "ada", "--role", "auditor", "--url", url)
    assert (again.returncode, again.stdout) == (1, "")
    assert "registry.principal-exists" in again.stderr
    bob = json.loads(run("principal", "add", "bob", "--role", "auditor", "--json", "--url", url).stdout)
    assert (bob["name"], bob["role"], bob["expires_at"], bob["token"][:7]) == ("bob", "auditor", None, "kbsrim_")
    assert run("principal", "revoke", "bob", "--url", url).returncode == 0
    assert run("principal", "revoke", "cyd", "--url", url).returncode == 1
    listed = run("principal", "list", "--url", url)
    assert token not in listed.stdout
    lines = [line.split() for line in listed.stdout.splitlines()]
    assert [(line[0], line[1], line[3]) for line in lines[1:]] == [("ada", "admin", "expires"), ("bob", "auditor", "revoked")]
    items = json.loads(run("principal", "list", "--json", "--url", url).stdout)["principals"]
    assert [item["revoked"] for item in items] == [False, True]


@pytest.mark.parametrize(
    "arguments", [(), ("--role", "root"), ("--role", "admin", "--expires", "0"), ("--role", "admin", "--expires", "soon")]
)
def test_a_principal_that_makes_no_sense_is_a_usage_error(run: Callable[..., Done], url: str, arguments: tuple[str, ...]) -> None:
    assert run("principal", "add", "ada", *arguments, "--url", url).returncode == 64


def test_principals_need_a_database_at_the_right_schema(run: Callable[..., Done], tmp_path: Path) -> None:
    (tmp_path / "empty.db").write_bytes(b"")
    refused = run("principal", "add", "ada", "--role", "admin", "--url", f"sqlite:///{tmp_path / 'empty.db'}")
    assert (refused.returncode, refused.stdout) == (2, "")


@pytest.mark.parametrize("command", [("db", "current"), ("principal", "list"), ("principal", "add", "x", "--role", "admin")])
def test_errors_name_the_database_and_the_remedy(run: Callable[..., Done], tmp_path: Path, command: tuple[str, ...]) -> None:
    """Each on one line, with what to do, and without the password."""
    (tmp_path / "empty.db").write_bytes(b"")
    cases = {
        f"sqlite:///{tmp_path}/none.db": f"kbs-rim: {tmp_path}/none.db: there is no such database; `kbs-rim db upgrade` makes it\n",
        f"sqlite:///{tmp_path}/no/x.db": f"kbs-rim: {tmp_path}/no/x.db: there is no such database (nor the directory {tmp_path}/no); "
        "`kbs-rim db upgrade` makes it\n",
        f"sqlite:///{tmp_path}": f"kbs-rim: {tmp_path}: this is no file\n",
        f"sqlite:///{tmp_path}/empty.db": f"kbs-rim: {tmp_path}/empty.db: this database is empty, or not one of kbs_rim; "
        "`kbs-rim db upgrade` furnishes it\n",
    }
    for url, message in cases.items():
        if command[0] == "db" and "empty" in url:
            continue  # an answer, not an error: see test_an_empty_database_cannot_be_served
        failed = run(*command, "--database-url", url)
        assert (failed.returncode, failed.stderr) == (2, message)
    failed = run(*command, "--database-url", "postgresql://user:tr0ub4dor@127.0.0.1:1/kbs")
    assert failed.returncode == 2
    assert failed.stderr.startswith("kbs-rim: postgresql://127.0.0.1:1/kbs: the database could not be used")
    assert "tr0ub4dor" not in failed.stderr


def test_an_upgrade_that_fails_does_not_advise_an_upgrade(run: Callable[..., Done], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    failed = run("db", "upgrade", "--database-url", f"sqlite:///{tmp_path}/file/x.db")
    assert failed.returncode == 2
    assert f"{tmp_path}/file/x.db: " in failed.stderr
    assert "db upgrade" not in failed.stderr
