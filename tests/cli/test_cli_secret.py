"""``kbs-rim secret`` against a running broker: names, bindings, and what is shown of both."""

import json
import os

import pytest

from kbs_rim.measurement.image import measure_image
from tests.cli_broker import run


@pytest.fixture
def furnished(broker, capsys):
    """Two workloads, one of them retired, and a secret for both with three versions, the newest revoked."""
    (broker / "image").write_bytes(b"i" * 5000)
    (broker / "value").write_bytes(b"tr0ub4dor")
    assert run(capsys, "image", "add", str(broker / "image"), "--name", "f", "--role", "firmware")[0] == 0
    image = measure_image(b"i" * 5000).image_id
    for name in ("web", "old"):
        document = {
            "name": name,
            "entry": {"role": "firmware", "x0": "zero"},
            "images": [{"role": "firmware", "images": [image]}],
            "device_tree": {"mode": "rules", "pack": "qemu-virt"},
            "memory": {"base": 0, "size": {"min": 0, "max": 4096}},
        }
        (broker / f"{name}.json").write_text(json.dumps(document))
        assert run(capsys, "workload", "add", str(broker / f"{name}.json"))[0] == 0
    value = ("--value-file", str(broker / "value"))
    assert run(capsys, "secret", "add", "web/luks/root", "--key-id", "root-key", "--workload", "web", "--workload", "old", *value)[0] == 0
    assert run(capsys, "secret", "put", "root-key", *value)[0] == 0
    assert run(capsys, "secret", "put", "web/luks/root", *value)[0] == 0
    assert run(capsys, "secret", "revoke", "root-key", "--version", "3")[0] == 0
    assert run(capsys, "workload", "retire", "old")[0] == 0
    return broker


def test_the_short_key_id_names_a_secret_everywhere(furnished, capsys):
    by_path, by_key_id = (run(capsys, "secret", "show", name, "--json") for name in ("web/luks/root", "root-key"))
    assert by_path == by_key_id
    assert [version["active"] for version in json.loads(by_key_id[1])["versions"]] == [True, True, False]
    code, out, _ = run(capsys, "secret", "bind", "root-key", "--workload", "web")
    assert (code, out.splitlines()[0]) == (0, "web/luks/root (key id root-key), for web")
    code, _, err = run(capsys, "secret", "show", "nobody-knows")
    assert (code, err) == (1, "kbs-rim: request.secret-unknown: no secret of this name is registered\n")


def test_a_list_shows_what_is_revoked_and_retired(furnished, capsys):
    code, out, _ = run(capsys, "secret", "list")
    assert code == 0
    assert "old (retired), web" in out
    assert "2 in use, 1 revoked" in out
    for version in ("1", "2"):
        assert run(capsys, "secret", "revoke", "root-key", "--version", version)[0] == 0
    assert "none in use, 3 revoked" in run(capsys, "secret", "list")[1]


def test_a_binding_is_never_taken_away_by_leaving_something_out(furnished, capsys):
    code, _, err = run(capsys, "secret", "bind", "root-key")
    assert code == 64
    assert "--nobody" in err
    assert run(capsys, "secret", "bind", "root-key", "--nobody", "--workload", "web")[0] == 64
    assert "for old, web" in run(capsys, "secret", "show", "root-key")[1]
    code, out, _ = run(capsys, "secret", "bind", "root-key", "--nobody")
    assert (code, out.splitlines()[0]) == (0, "web/luks/root (key id root-key), for nobody")


def test_an_administrator_at_the_guests_listener_is_told_so(broker, capsys, monkeypatch):
    monkeypatch.setenv("KBS_RIM_URL", os.environ["KBS_RIM_TEST_GUESTS_URL"])
    code, _, err = run(capsys, "secret", "list")
    assert code == 2
    assert f"what answers at {os.environ['KBS_RIM_TEST_GUESTS_URL']} is no broker for administrators (HTTP 404)" in err
    assert "internal listener" in err
