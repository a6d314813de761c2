"""``kbs-rim rim replay``."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kbs_rim.cli import main
from kbs_rim.measurement.chain_kernel import NATIVE, NATIVE_STATE

VECTORS = Path(__file__).parent.parent / "vectors" / "rim"


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    out, err = capsys.readouterr()
    return ended.value.code, out, err


@pytest.mark.parametrize("name", ["rmm1.0.json", "rmm2.0.json"])
def test_replay_prints_one_rim_for_each_case(capsys, name):
    expected = [case["rim"] for case in json.loads((VECTORS / name).read_text())["cases"]]
    code, out, err = run(capsys, "rim", "replay", str(VECTORS / name))
    assert (code, out.splitlines(), err) == (0, expected, "")
    code, out, _ = run(capsys, "rim", "replay", "--json", str(VECTORS / name))
    assert (code, json.loads(out)) == (0, expected)


def test_a_malformed_file_is_one_line_on_stderr(capsys, tmp_path):
    content = json.loads((VECTORS / "rmm1.0.json").read_text())
    content["cases"][3]["operations"][0]["s2sz"] = "48"
    file = tmp_path / "operations.json"
    file.write_text(json.dumps(content))
    code, out, err = run(capsys, "rim", "replay", str(file))
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert "cases[3].operations[0].s2sz" in err


def test_another_rim_in_the_file_is_said(capsys, tmp_path):
    content = json.loads((VECTORS / "rmm2.0.json").read_text())
    content["cases"] = content["cases"][:2]
    right = [case["rim"] for case in content["cases"]]
    content["cases"][1]["rim"] = "00" * (len(right[1]) // 2)
    file = tmp_path / "operations.json"
    file.write_text(json.dumps(content))
    code, out, err = run(capsys, "rim", "replay", str(file))
    assert (code, out.splitlines()) == (1, right)
    assert "cases[1].rim" in err
    assert "cases[0]" not in err


def test_a_missing_file_could_not_be_done(capsys, tmp_path):
    code, out, err = run(capsys, "rim", "replay", str(tmp_path / "none.json"))
    assert (code, out) == (2, "")
    assert "none.json" in err


def test_no_file_is_a_usage_error(capsys):
    assert run(capsys, "rim", "replay")[0] == 64


def test_stdin_and_the_installed_command():
    data = (VECTORS / "rmm2.0.json").read_bytes()
    command = [sys.executable, "-c", "from kbs_rim.cli import main; main()", "rim", "replay", "-"]
    done = subprocess.run(command, input=data, capture_output=True, check=True)
    assert done.stdout.decode().splitlines() == [case["rim"] for case in json.loads(data)["cases"]]


def test_the_kernel_in_use_is_named(capsys):
    code, out, _ = run(capsys, "rim", "kernel", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["kernel"] == ("pure" if NATIVE is None else "native")
    assert found["native"] == NATIVE_STATE
    assert found["implementations"].keys() == {"sha-256", "sha-384", "sha-512"}
    code, out, _ = run(capsys, "rim", "kernel")
    assert (code, out.split(" by ")[0]) == (0, f"{found['kernel']}: sha-256")
