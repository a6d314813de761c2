"""``kbs-rim log``: output that scripts rely on, exit codes, and what a hostile log may do to a terminal."""

import gzip
import hashlib
import io
import json
import struct
from pathlib import Path

import pytest

from kbs_rim.cli import main

LOGS = Path(__file__).parent.parent / "vectors" / "logs"
SYNTHETIC = LOGS / "synthetic"
EXPECTED = json.loads((LOGS / "expected-registers.json").read_text())
RIMS = json.loads((SYNTHETIC / "expected.json").read_text())
IMAGES = [SYNTHETIC / "images" / f"{name}.bin" for name in ("kernel", "initrd", "dtb")]
READABLE = {"32-rec-not-runnable", "34-overlapping-images", "36-blobsize-lies", "39-doc-layout-vmversion", "40-lpa2-flag"}


@pytest.fixture
def run(capsys):
    """Run the command; return (exit code, stdout, stderr)."""

    def invoke(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        output = capsys.readouterr()
        return int(caught.value.code or 0), output.out, output.err

    return invoke


def log_with(*records: tuple[int, int, bytes]) -> bytes:
    """A SHA-256 log with one digest for each (register, type, data)."""
    event = b"Spec ID Event03\0" + struct.pack("<IBBBBI", 0, 0, 2, 106, 2, 1) + struct.pack("<HH", 0xB, 32) + b"\0"
    body = struct.pack("<II20sI", 0, 3, b"", len(event)) + event
    for index, event_type, data in records:
        body += struct.pack("<IIIH", index, event_type, 1, 0xB) + hashlib.sha256(data).digest() + struct.pack("<I", len(data)) + data
    return body


# log show


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_registers_of_every_real_log(run, name):
    kind = {"tpm": "tpm", "ccel": "cc", "cca": "vmm"}[name.split("/")[0]]
    code, out, err = run("log", "show", LOGS / name, "--kind", kind, "--registers", "--json")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert set(document) == {"registers"}
    assert all(document["registers"][bank] == values for bank, values in EXPECTED[name]["replayed"].items())


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_kind_may_be_left_out(run, name):
    code, out, err = run("log", "show", LOGS / name, "--registers", "--json")
    assert code == 0
    assert json.loads(out)["registers"].items() >= EXPECTED[name]["replayed"].items()
    assert err.count("\n") == 1
    assert err.startswith("kbs-rim: read as a ")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("synthetic/emitter-layout-kernel-sha256.bin", "vmm"),
        ("tpm/rhel8-uefi.bin", "tpm"),
        ("tpm/debian-10.bin", "tpm"),
        ("ccel/event_log.bin", "cc"),
    ],
)
def test_guessed_kind_is_said(run, name, kind):
    assert f"read as a {kind} log" in run("log", "show", LOGS / name)[2]


def test_registers_as_text(run):
    _, out, _ = run("log", "show", LOGS / "tpm" / "crypto_agile_eventlog", "--registers")
    bank = EXPECTED["tpm/crypto_agile_eventlog"]["replayed"]["sha256"]
    assert [line.split() for line in out.splitlines()] == [["sha256", index, bank[index]] for index in sorted(bank, key=int)]


def test_table_of_a_vmm_log(run):
    code, out, _ = run("log", "show", SYNTHETIC / "emitter-layout-kernel-sha256.bin", "--kind", "vmm")
    assert code == 0
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[0] == "# Register Type What it says Digest"
    assert lines[1] == "0 - EV_NO_ACTION QEMU 9.1, 2 CPUs, 0x20000000 bytes of RAM not measured"
    assert lines[4] == "3 RIM EV_POST_CODE2 KERNEL: 0x40000000, 0x1388 bytes sha256:34398b85297bf7d9..."
    assert len(lines) == 9
    assert not any(line.endswith(" ") for line in out.splitlines())


def test_json_of_a_vmm_log(run):
    _, out, _ = run("log", "show", SYNTHETIC / "emitter-layout-kernel-sha512.bin", "--kind", "vmm", "--json")
    document = json.loads(out)
    assert (document["kind"], document["algorithms"], document["padding"], document["used_bytes"]) == ("vmm", ["sha512"], 0, 791)
    create = document["events"][1]
    assert (create["register"], create["type_name"], create["digests"]) == (0, "EV_EVENT_TAG", {})
    assert create["fields"]["operation"] == "REALM_CREATE"
    assert document["events"][2]["digests"].keys() == set()
    assert bytes.fromhex(document["events"][3]["digests"]["sha512"]) == hashlib.sha512(IMAGES[0].read_bytes()).digest()


def test_fragment_of_older_kvmtool_is_shown(run):
    code, out, _ = run("log", "show", LOGS / "cca" / "realm-bootlog.bin", "--kind", "vmm")
    assert code == 0
    assert "INITRD: 0x8addd3fc, 0x5022c00 bytes" in out


@pytest.mark.parametrize("path", sorted((SYNTHETIC / "hostile").iterdir()), ids=lambda path: path.stem)
@pytest.mark.parametrize("kind", [None, "vmm"])
def test_hostile_log_gives_exit_1_and_one_line(run, path, kind):
    code, out, err = run("log", "show", path, *(["--kind", kind] if kind else []), "--json")
    if path.stem in READABLE:
        assert code == 0
        return
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert err.startswith(("kbs-rim: log.", "kbs-rim: plan."))


def test_text_that_is_no_log(run):
    code, out, err = run("log", "show", LOGS / "tpm" / "keylime-binary_bios_measurements-bogus", "--kind", "tpm")
    assert (code, out) == (1, "")
    assert err.count("\n") == 1


def test_file_larger_than_any_log_is_refused(run, tmp_path):
    file = tmp_path / "large"
    with file.open("wb") as stream:
        stream.truncate(1 << 33)
    code, _, err = run("log", "show", file)
    assert code == 1
    assert "log.too-large" in err


def test_legacy_log_is_shown_as_tpm_log_only(run):
    assert run("log", "show", LOGS / "tpm" / "debian-10.bin", "--kind", "tpm")[0] == 0
    for kind in ("vmm", "cc"):
        code, _, err = run("log", "show", LOGS / "tpm" / "debian-10.bin", "--kind", kind)
        assert code == 1
        assert "log.legacy" in err


def test_cc_index_is_not_read_as_a_pcr(run, tmp_path):
    file = tmp_path / "log"
    file.write_bytes(log_with((5, 0x5, b"x")))
    assert run("log", "show", file, "--kind", "tpm")[0] == 0
    assert run("log", "show", file, "--kind", "cc")[0] == 1


@pytest.mark.parametrize("as_json", [True, False])
def test_terminal_escapes_never_reach_the_terminal(run, tmp_path, as_json):
    file = tmp_path / "log"
    blob = b"\x1b[2J[bold]\x07"
    file.write_bytes(log_with((8, 0xD, b"grub_cmd: \x1b]0;owned\x07\r\n[red]\0"), (0, 0x13, bytes([len(blob)]) + blob + bytes(16))))
    code, out, _ = run("log", "show", file, "--kind", "tpm", *(["--json"] if as_json else []))
    assert code == 0
    assert all(character.isprintable() or character == "\n" for character in out)
    assert "[bold]" in out


def test_terminal_escapes_in_errors_stay_inert(run, tmp_path):
    file = tmp_path / "log"
    name = b"\x1b[2J"
    event = struct.pack("<III", 0, 0x13, 0) + struct.pack("<I", 17 + len(name)) + bytes([len(name)]) + name + bytes(16)
    file.write_bytes(log_with() + event)
    code, _, err = run("log", "show", file, "--kind", "vmm")
    assert code == 1
    assert "plan.unmeasured" in err
    assert err[:-1].isprintable()


def test_missing_file_is_not_a_malformed_log(run, tmp_path):
    assert run("log", "show", tmp_path / "absent")[0] == 2


@pytest.mark.parametrize("command", [("log", "show"), ("log", "rim", "--rmm", "1.0"), ("rim", "replay"), ("image", "hash")])
def test_a_directory_is_no_file_to_read(run, tmp_path, command):
    """Not usage: like a file that is missing, it may be there the next time."""
    code, out, err = run(*command, tmp_path)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1


@pytest.mark.parametrize("more", [("show", "--json"), ("rim", "--rmm", "1.0", *IMAGES)])
def test_log_from_standard_input(run, monkeypatch, more):
    log = SYNTHETIC / "emitter-layout-kernel-sha256.bin"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(log.read_bytes())))
    code, out, _ = run("log", more[0], "-", *more[1:])
    assert (code, out) == (0, run("log", more[0], log, *more[1:])[1])


def test_unknown_kind_is_a_usage_error(run):
    assert run("log", "show", "x", "--kind", "syslog")[0] == 64


# log rim


@pytest.mark.parametrize("name", ["sha256", "sha512"])
@pytest.mark.parametrize(("rmm", "member"), [("1.0", "rmm1"), ("2.0", "rmm2_no_ripas_measurement")])
def test_rim_of_the_synthetic_logs(run, name, rmm, member):
    file = f"emitter-layout-kernel-{name}.bin"
    code, out, err = run("log", "rim", SYNTHETIC / file, "--image", *IMAGES, "--rmm", rmm)
    assert (code, out, err) == (0, RIMS[file][member]["rim"] + "\n", "")


def test_images_may_be_given_one_by_one(run):
    options = [part for image in IMAGES for part in ("--image", image)]
    code, out, _ = run("log", "rim", *options, "--rmm", "1.0", SYNTHETIC / "emitter-layout-kernel-sha256.bin")
    assert (code, out.strip()) == (0, RIMS["emitter-layout-kernel-sha256.bin"]["rmm1"]["rim"])


def test_rim_as_json(run):
    code, out, _ = run(
        "log", "rim", SYNTHETIC / "emitter-layout-kernel-sha256.bin", "--image", *IMAGES, "--rmm", "2.0", "--order", "ripas-last", "--json"
    )
    document = json.loads(out)
    assert code == 0
    assert document["dialect"] == "rmm-2.0/4k/ripas-last"
    assert [(image["description"], image["file"]) for image in document["images"]] == [
        ("KERNEL", str(IMAGES[0])), ("INITRD", str(IMAGES[1])), ("DTB", str(IMAGES[2])),
    ]  # fmt: skip
    assert document["images"][0]["image"] == f"sha256:{hashlib.sha256(IMAGES[0].read_bytes()).hexdigest()}"


def test_dialects_give_other_rims(run):
    log = SYNTHETIC / "emitter-layout-kernel-sha256.bin"
    seen = {
        run("log", "rim", log, "--image", *IMAGES, "--rmm", "1.0", "--rounding", rounding, "--order", order)[1]
        for rounding in ("4k", "16k", "64k")
        for order in ("log", "ripas-last", "ripas-last-whole")
    }
    assert len(seen) == 9


def test_missing_image_is_named(run):
    code, out, err = run("log", "rim", SYNTHETIC / "emitter-layout-kernel-sha256.bin", "--image", *IMAGES[:2], "--rmm", "1.0")
    assert (code, out) == (1, "")
    assert "rim.image-unknown: event 5 (DTB)" in err
    assert hashlib.sha256(IMAGES[2].read_bytes()).hexdigest() in err


def kernel_file() -> bytes:
    return struct.pack("<IIQQQ24x4sI", 0, 0, 0, 0x20000, 0xA, b"ARMd", 0) + bytes(range(256)) * 40


def log_of_kernel(kernel: bytes, size: int, pmu: int = 0) -> bytes:
    create = struct.pack("<IIQBBBBBB2x", 1, 16, 0, 40, 0, 5, 5, pmu, 0)
    records = [(0x6, None, create), (0x13, hashlib.sha256(kernel).digest(), b"\x06KERNEL" + struct.pack("<QQ", 0x80000000, size))]
    body = log_with()
    for event_type, digest, data in records:
        digests = b"" if digest is None else struct.pack("<H", 0xB) + digest
        body += struct.pack("<III", 0, event_type, 0 if digest is None else 1) + digests + struct.pack("<I", len(data)) + data
    return body


def test_gzipped_kernel_is_known_by_its_unpacked_bytes(run, tmp_path):
    kernel = kernel_file()
    log, plain, packed = (tmp_path / name for name in ("log", "Image", "Image.gz"))
    log.write_bytes(log_of_kernel(kernel, len(kernel)))
    plain.write_bytes(kernel)
    packed.write_bytes(gzip.compress(kernel))
    code, out, _ = run("log", "rim", log, "--image", packed, "--rmm", "1.0")
    assert code == 0
    assert out == run("log", "rim", log, "--image", plain, "--rmm", "1.0")[1]


def test_logged_size_that_is_not_the_images(run, tmp_path):
    kernel = kernel_file()
    log, image = tmp_path / "log", tmp_path / "Image"
    log.write_bytes(log_of_kernel(kernel, len(kernel) + 1))
    image.write_bytes(kernel)
    code, _, err = run("log", "rim", log, "--image", image, "--rmm", "1.0")
    assert code == 1
    assert "rim.image-size" in err


def test_pmu_counters_without_the_flag_are_pointed_out(run, tmp_path):
    kernel = kernel_file()
    image, logged, real = tmp_path / "Image", tmp_path / "logged", tmp_path / "real"
    image.write_bytes(kernel)
    logged.write_bytes(log_of_kernel(kernel, len(kernel), pmu=6))
    real.write_bytes(log_of_kernel(kernel, len(kernel), pmu=0))
    code, raw, err = run("log", "rim", logged, "--image", image, "--rmm", "1.0")
    assert code == 0
    assert "--pmu-counters 0" in err
    code, replaced, err = run("log", "rim", logged, "--image", image, "--rmm", "1.0", "--pmu-counters", "0")
    assert (code, err) == (0, "")
    assert replaced == run("log", "rim", real, "--image", image, "--rmm", "1.0")[1] != raw


@pytest.mark.parametrize(
    "name", ["10-second-realm-create", "07-unmeasured-huge", "31-image-amplification", "34-overlapping-images", "39-doc-layout-vmversion"]
)
def test_hostile_log_gives_no_rim(run, name):
    code, out, err = run("log", "rim", SYNTHETIC / "hostile" / f"{name}.bin", "--image", IMAGES[0], "--rmm", "1.0")
    assert (code, out) == (1, "")
    assert err.count("\n") == 1


def test_rmm_must_be_said(run):
    assert run("log", "rim", SYNTHETIC / "emitter-layout-kernel-sha256.bin")[0] == 64


def test_damaged_image_is_named(run, tmp_path):
    tree = tmp_path / "bad.dtb"
    tree.write_bytes(b"\xd0\x0d\xfe\xed" + bytes(60))
    code, _, err = run("log", "rim", SYNTHETIC / "emitter-layout-kernel-sha256.bin", "--image", tree, "--rmm", "1.0")
    assert code == 1
    assert "tree.malformed" in err
    assert "bad.dtb" in err
