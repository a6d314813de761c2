"""Exit codes that hold for every command: a file that is missing is "could not do it", wherever it was named."""

import json
from pathlib import Path

import pytest

from kbs_rim.measurement.device_tree_blob import Node
from kbs_rim.measurement.device_tree_writer import cells64, text, write_device_tree
from tests.cli_broker import run

MISSING = (
    ("image", "hash", "FILE"),
    ("image", "add", "FILE", "--name", "x", "--role", "kernel"),
    ("image", "add", "--from", "FILE"),
    ("workload", "add", "FILE"),
    ("workload", "check", "FILE"),
    ("log", "show", "FILE"),
    ("log", "diff", "FILE", "FILE"),
    ("log", "rim", "FILE", "--image", "FILE", "--rmm", "1.0"),
    ("token", "show", "FILE"),
    ("token", "check", "FILE"),
    ("dtb", "show", "FILE"),
    ("dtb", "diff", "FILE", "FILE"),
    ("rim", "replay", "FILE"),
    ("corim", "show", "FILE"),
    ("config", "check", "--config", "FILE"),
    ("appraisal", "explain", "0011223344556677", "--image", "FILE"),
    ("secret", "add", "a/b/c", "--value-file", "FILE"),
    ("verifier", "--signing-key", "k", "--endorsements", "FILE"),
)


@pytest.mark.parametrize("command", MISSING, ids=[" ".join(words[:2]) for words in MISSING])
def test_a_missing_file_is_exit_2_with_one_line_that_names_it(capsys, tmp_path: Path, monkeypatch, command: tuple[str, ...]) -> None:
    monkeypatch.setenv("KBS_RIM_TOKEN", "t")
    file = str(tmp_path / "none")
    code, out, err = run(capsys, *(file if word == "FILE" else word for word in command))
    assert (code, out) == (2, "")
    assert err.startswith("kbs-rim: ")
    assert file in err
    assert len(err.splitlines()) == 1


def test_what_could_not_be_done_begins_like_every_message(capsys, tmp_path: Path) -> None:
    """click's own ``Error:`` is for wrong usage only."""
    (tmp_path / "tree").write_bytes(b"no tree")
    code, out, err = run(capsys, "dtb", "diff", str(tmp_path / "tree"), str(tmp_path / "tree"))
    assert (code, out) == (2, "")
    assert err.startswith(f"kbs-rim: {tmp_path}/tree: tree.malformed: ")


def test_a_signing_key_that_is_not_there_can_be_made(capsys, tmp_path: Path) -> None:
    code, out, err = run(capsys, "verifier", "--signing-key", str(tmp_path / "key"))
    assert (code, out, err) == (2, "", f"kbs-rim: {tmp_path}/key: there is no signing key; --generate-key makes one\n")


def test_a_workload_that_is_no_text_is_said_so(capsys, tmp_path: Path) -> None:
    file = tmp_path / "web.toml"
    file.write_bytes(b"name = \xfa")
    code, _, err = run(capsys, "workload", "check", str(file))
    assert (code, err) == (1, f"kbs-rim: document.workload: {file} is no text: a workload is TOML or JSON in UTF-8\n")


def test_wrong_usage_is_64_all_the_same(capsys) -> None:
    for command in (("token", "check"), ("token", "check", "x", "--challenge", "zz"), ("no-such",), ("workload", "check", "--nope", "x")):
        assert run(capsys, *command)[0] == 64


def test_a_token_that_is_none_is_one_line(capsys, tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(b"garbage")
    code, out, err = run(capsys, "token", "check", str(tmp_path / "t"))
    assert (code, err) == (1, "")
    assert out == "token.form: the token has no outer form that we know (expected tag 399 or 907, seen no tag)\n"


# --- payloads -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def answering(monkeypatch) -> bytes:
    """A broker whose one payload would clear the screen."""
    data = b"\x1b[2J token"
    monkeypatch.setenv("KBS_RIM_TOKEN", "t")
    monkeypatch.setattr("kbs_rim.cli.admin_client.AdminClient.get_bytes", lambda self, path: data)
    return data


def test_a_payload_goes_to_no_terminal_and_over_no_file(answering: bytes, capsys, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    code, out, err = run(capsys, "appraisal", "payload", "ab" * 32)
    assert (code, out) == (64, "")
    assert "not fit for a terminal" in err
    file = tmp_path / "token"
    assert run(capsys, "appraisal", "payload", "ab" * 32, "--output", str(file))[0] == 0
    assert file.read_bytes() == answering
    file.write_bytes(b"mine")
    code, _, err = run(capsys, "appraisal", "payload", "ab" * 32, "--output", str(file))
    assert (code, file.read_bytes()) == (2, b"mine")
    assert "--force replaces it" in err
    assert run(capsys, "appraisal", "payload", "ab" * 32, "--output", str(file), "--force")[0] == 0
    assert file.read_bytes() == answering


# --- seeds --------------------------------------------------------------------------------------------------------------


def tree(**chosen: bytes) -> bytes:
    memory = Node("memory@40000000", {"device_type": text("memory"), "reg": cells64(1 << 30, 1 << 28)})
    cells = {"#address-cells": (2).to_bytes(4, "big"), "#size-cells": (2).to_bytes(4, "big")}
    return write_device_tree(Node("", cells, (Node("chosen", chosen), memory)))


@pytest.mark.parametrize(
    ("chosen", "names"),
    [
        ({"kaslr-seed": b"12345678", "rng-seed": b"r" * 64}, "kaslr-seed and rng-seed"),
        ({"rng-seed": b"r"}, "rng-seed"),
        ({"kaslr-seed": b""}, None),
        ({"bootargs": text("quiet")}, None),
    ],
)
def test_a_tree_with_a_fixed_seed_is_registered_with_a_warning(capsys, tmp_path: Path, chosen: dict, names: str | None) -> None:
    (tmp_path / "dtb").write_bytes(tree(**chosen))
    code, out, err = run(capsys, "image", "add", str(tmp_path / "dtb"), "--name", "t", "--role", "device-tree", "--dry-run", "--json")
    assert code == 0
    assert json.loads(out)
    warnings = [line for line in err.splitlines() if "the same at each boot" in line]
    assert len(warnings) == (names is not None)
    assert names is None or f"t holds {names}, " in warnings[0]
