"""``kbs-rim image add|list|show|deprecate|activate|revoke`` against a running broker."""

import hashlib
import json
from pathlib import Path

import pytest

from kbs_rim.measurement.image import measure_image
from tests.cli_broker import run
from tests.pe_builder import slow_authenticode, uki

IMAGES = Path(__file__).parent.parent / "vectors" / "vmm" / "images"


def add(capsys, file: str, *options: str) -> str:
    code, out, err = run(capsys, "image", "add", str(IMAGES / file), *options)
    assert (code, err) == (0, "")
    return out.strip()


def test_add_hashes_here_and_prints_the_id(broker, capsys):
    image = add(
        capsys, "linux.bin.gz", "--name", "a kernel", "--role", "kernel", "--provenance", "package=linux", "--provenance", "note=a=b"
    )
    assert image == f"sha256:{hashlib.sha256((IMAGES / 'linux.bin').read_bytes()).hexdigest()}"
    _, out, _ = run(capsys, "image", "show", image, "--json")
    shown = json.loads(out)
    assert (shown["name"], shown["roles"], shown["state"], shown["compression"]) == ("a kernel", ["kernel"], "active", "gzip")
    file_sha256 = hashlib.sha256((IMAGES / "linux.bin.gz").read_bytes()).hexdigest()
    mine = {"origin": "local file", "file": "linux.bin.gz", "file-sha256": file_sha256}
    assert shown["provenance"] == {"package": "linux", "note": "a=b", **mine}
    assert shown["registered_by"] == "admin"
    assert shown["file_digests"]["sha-256"] == hashlib.sha256((IMAGES / "linux.bin.gz").read_bytes()).hexdigest()


def test_show_for_people_names_everything(broker, capsys):
    image = add(capsys, "linux.bin.gz", "--name", "a kernel", "--role", "kernel", "--provenance", "package=linux")
    code, out, _ = run(capsys, "image", "show", image)
    assert code == 0
    for part in (image, "a kernel", "arm64-image gzip", "active since", "sha-384 of the file", "package", "linux", "by admin"):
        assert part in out


def test_a_registered_uki_shows_what_logs_hold_for_it(broker, capsys):
    data = uki((".linux", b"kernel"), (".cmdline", b"quiet"), (".initrd", b"initrd"))
    file = broker / "linux.efi"
    file.write_bytes(data)
    code, out, err = run(capsys, "image", "add", str(file), "--name", "a UKI", "--role", "firmware")
    assert (code, err) == (0, "")
    image = out.strip()
    document = measure_image(data).to_document()
    shown = json.loads(run(capsys, "image", "show", image, "--json")[1])
    assert (shown["pe"], shown["volumes"]) == (document["pe"], document["volumes"])
    _, out, _ = run(capsys, "image", "show", image)
    for part in (slow_authenticode(data).hex(), hashlib.sha256(b"initrd").hexdigest(), "'quiet'", "systemd-stub 257.13-1~deb13u1"):
        assert part in out


def test_the_same_bytes_twice_are_one_image_under_its_first_name(broker, capsys):
    first = add(capsys, "linux.bin", "--name", "a kernel", "--role", "kernel")
    code, out, err = run(
        capsys, "image", "add", str(IMAGES / "linux.bin"), "--name", "another name", "--role", "kernel", "--role", "initrd"
    )
    assert (code, out.strip()) == (0, first)
    assert "registered before, as a kernel" in err
    _, out, _ = run(capsys, "image", "list", "--json")
    assert [(item["id"], sorted(item["roles"])) for item in json.loads(out)["images"]] == [(first, ["initrd", "kernel"])]


def test_states(broker, capsys):
    image = add(capsys, "initrd.bin", "--name", "an initrd", "--role", "initrd")
    code, out, _ = run(capsys, "image", "deprecate", image, "--reason", "a newer one is out")
    assert code == 0
    assert "is deprecated" in out
    assert json.loads(run(capsys, "image", "activate", image, "--reason", "no, it is not", "--json")[1])["image"]["state"] == "active"
    code, out, _ = run(capsys, "image", "revoke", image, "--reason", "CVE-2026-1")
    assert code == 0
    assert "is revoked" in out
    assert "touches workloads: none" in out
    assert "touches past_releases: 0" in out
    code, _, err = run(capsys, "image", "activate", image, "--reason", "please")
    assert (code, err.split(": ")[1]) == (1, "registry.image-revoked")
    _, out, _ = run(capsys, "image", "list", "--state", "revoked")
    assert image in out
    assert image not in run(capsys, "image", "list", "--state", "active")[1]


def test_a_revocation_names_the_workloads_that_it_touches(broker, capsys):
    kernel = add(capsys, "linux.bin", "--name", "a kernel", "--role", "kernel")
    tree = run(capsys, "image", "add", str(IMAGES.parent / "dtb-public" / "X039-qemu.dtb"), "--name", "a tree", "--role", "device-tree")[
        1
    ].strip()
    workload = {
        "name": "web",
        "memory": {"base": "0x40000000", "size": {"min": 4096, "max": "0x40000000"}},
        "images": [{"role": "kernel", "images": [kernel]}, {"role": "device-tree", "images": [tree]}],
    }
    (broker / "web.json").write_text(json.dumps(workload))
    assert run(capsys, "workload", "add", str(broker / "web.json"))[0] == 0
    _, out, _ = run(capsys, "image", "revoke", tree, "--reason", "wrong command line")
    assert "touches workloads: web" in out


def test_an_auditor_reads_and_changes_nothing(broker, capsys, monkeypatch):
    image = add(capsys, "initrd.bin", "--name", "an initrd", "--role", "initrd")
    monkeypatch.setenv("KBS_RIM_TOKEN_FILE", str(broker / "auditor"))
    assert run(capsys, "image", "show", image)[0] == 0
    code, _, err = run(capsys, "image", "revoke", image, "--reason", "mischief")
    assert (code, err.split(": ")[1]) == (1, "access.role")


@pytest.mark.parametrize("pairs", [("novalue",), ("=x",), ("a=1", "a=2")])
def test_provenance_is_written_as_key_and_value(broker, capsys, pairs):
    options = [part for pair in pairs for part in ("--provenance", pair)]
    code, _, err = run(capsys, "image", "add", str(IMAGES / "initrd.bin"), "--name", "x", "--role", "initrd", *options)
    assert code == 64
    assert "KEY=VALUE" in err


def test_a_bad_name_is_refused_by_the_broker(broker, capsys):
    code, _, err = run(capsys, "image", "add", str(IMAGES / "initrd.bin"), "--name", "a\nb", "--role", "initrd")
    assert (code, err.split(": ")[1]) == (1, "document.image")


@pytest.mark.parametrize("name", ["a b", "x?state=active", "../workloads", "ü\r\nHost: elsewhere"])
def test_a_strange_id_is_an_unknown_image(broker, capsys, name):
    code, _, err = run(capsys, "image", "show", name)
    assert code == 1
    assert err.startswith(("kbs-rim: registry.image-unknown", "kbs-rim: no-such-route"))
