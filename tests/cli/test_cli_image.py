"""``kbs-rim image hash``."""

import base64
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from kbs_rim.cli import main
from kbs_rim.cli.image import measure_file
from kbs_rim.measurement.image import ImageMeasurements, measure_image
from tests.pe_builder import PeFile, Section, signed, slow_authenticode, uki, volume

VMM = Path(__file__).parent.parent / "vectors" / "vmm"
IMAGES = VMM / "images"


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    out, err = capsys.readouterr()
    return ended.value.code, out, err


def test_json_of_a_gzipped_kernel(capsys):
    code, out, err = run(capsys, "image", "hash", "--json", str(IMAGES / "linux.bin.gz"))
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert found["image_id"] == "sha256:1d996b14b5b5fcc2beb6abd2c6beb6d9ca8ae38e16542cdd83bbdb49213e7351"
    assert (found["kind"], found["compression"], found["size"], found["file_size"]) == ("arm64-image", "gzip", 256, 116)
    assert found["kernel"] == {"text_offset": "0x0", "image_size": "0x2d10000", "flags": "0xa"}
    for name in ("sha256", "sha384", "sha512"):
        assert found["digests"][name] == hashlib.new(name, (IMAGES / "linux.bin").read_bytes()).hexdigest()
        assert found["file_digests"][name] == hashlib.new(name, (IMAGES / "linux.bin.gz").read_bytes()).hexdigest()


def test_json_tells_both_alignments_and_on_request_all_granules(capsys):
    data = (IMAGES / "initrd-unaligned.bin").read_bytes()
    _, out, _ = run(capsys, "image", "hash", "--json", "--granules", str(IMAGES / "initrd-unaligned.bin"))
    found = json.loads(out)
    first_page = bytes(2284) + data[: 4096 - 2284]
    granules = base64.b64decode(found["granules"]["sha256"]["end"])
    assert (found["alignments"]["start"]["lead"], found["alignments"]["end"]["lead"]) == (0, 2284)
    assert found["alignments"]["end"]["granules"] == len(granules) // 32 == 3
    assert granules[:32] == hashlib.sha256(first_page).digest()
    assert found["alignments"]["end"]["digests"]["sha256"] == hashlib.sha256(granules).hexdigest()
    members = set(measure_image(data).to_document())
    assert ImageMeasurements.from_document({name: found[name] for name in members}) == measure_image(data)


def test_the_table_keeps_digests_in_one_piece(capsys):
    file = VMM / "dtb-public" / "X016-kvmtool.dtb"
    code, out, _ = run(capsys, "image", "hash", str(file))
    assert code == 0
    assert hashlib.sha512(file.read_bytes()).hexdigest() in out
    assert "device-tree" in out
    assert "0x80000000, 0x8000000 bytes" in out
    assert not any(line.endswith(" ") for line in out.splitlines())


def test_file_names_are_not_markup(capsys, tmp_path):
    file = tmp_path / "[bold]x"
    file.write_bytes(b"x")
    assert "[bold]x" in run(capsys, "image", "hash", str(file))[1]


def test_an_empty_file_is_refused(capsys, tmp_path):
    file = tmp_path / "empty"
    file.touch()
    code, out, err = run(capsys, "image", "hash", str(file))
    assert (code, out) == (1, "")
    assert "image.empty" in err


def test_a_damaged_tree_is_refused(capsys, tmp_path):
    file = tmp_path / "tree.dtb"
    file.write_bytes((VMM / "dtb-public" / "C27-qemu.dtb").read_bytes()[:-1])
    code, _, err = run(capsys, "image", "hash", "--json", str(file))
    assert code == 1
    assert "tree.malformed" in err


def test_a_missing_file_could_not_be_done_and_wrong_usage_is_usage(capsys, tmp_path):
    assert run(capsys, "image", "hash", str(tmp_path / "none"))[0] == 2
    assert run(capsys, "image", "hash")[0] == 64
    assert run(capsys, "image", "hash", "--granules", str(IMAGES / "firmware.bin"))[0] == 64


def test_stdin_is_measured_as_the_file():
    data = (IMAGES / "initrd-unaligned.bin").read_bytes()
    command = [sys.executable, "-c", "from kbs_rim.cli import main; main()", "image", "hash", "--json", "-"]
    done = subprocess.run(command, input=data, capture_output=True, check=True)
    assert json.loads(done.stdout)["image_id"] == measure_image(data).image_id
    assert measure_file(IMAGES / "initrd-unaligned.bin") == measure_image(data)


def test_the_table_tells_file_and_loaded_bytes_of_a_gzipped_kernel(capsys):
    out = run(capsys, "image", "hash", str(IMAGES / "linux.bin.gz"))[1]
    assert "116 bytes, gzip" in out
    assert "256 bytes as loaded" in out
    assert "text_offset 0x0, image_size 0x2d10000, flags 0xa" in out


def test_a_uki_is_taken_apart(capsys, tmp_path):
    data = uki((".linux", b"kernel"), (".cmdline", b"quiet\x1b[2J"), (".profile", b"ID=a\n"), (".profile", b"ID=b"), (".initrd", b"i"))
    file = tmp_path / "linux.efi"
    file.write_bytes(data)
    out = run(capsys, "image", "hash", str(file))[1]
    assert "arm64, unsigned" in out
    assert slow_authenticode(data).hex() in out
    assert "systemd-stub 257.13-1~deb13u1" in out
    assert f"6 bytes, sha256 {hashlib.sha256(b'kernel').hexdigest()}" in out
    assert ".initrd of profile 1" in out
    assert "stub's initrd 1 sha512" in out
    assert r"'quiet\x1b[2J'" in out
    assert "\x1b" not in out
    found = json.loads(run(capsys, "image", "hash", "--json", str(file))[1])
    assert found["pe"] == measure_image(data).to_document()["pe"]
    assert found["volumes"] == []


def test_signed_and_unsigned_programs(capsys, tmp_path):
    file, data = tmp_path / "program.efi", PeFile([Section(".text", b"x")], trailer=b"odd").build()
    file.write_bytes(data)
    out = run(capsys, "image", "hash", str(file))[1]
    assert "once signed sha256" in out
    sealed = signed(data)
    file.write_bytes(sealed)
    later = run(capsys, "image", "hash", str(file))[1]
    assert "signed, 176 bytes of certificates" in later
    assert "once signed" not in later
    assert slow_authenticode(sealed).hex() in out
    assert slow_authenticode(sealed).hex() in later


def test_firmware_shows_its_volume(capsys, tmp_path):
    file, inside = tmp_path / "QEMU_EFI.fd", volume(8192)
    file.write_bytes(bytes(4096) + inside)
    out = run(capsys, "image", "hash", str(file))[1]
    assert "volume at 0x1000" in out
    assert f"8192 bytes, sha256 {hashlib.sha256(inside).hexdigest()}" in out


def test_a_cut_pe_file_is_refused(capsys, tmp_path):
    file = tmp_path / "cut.efi"
    file.write_bytes(uki((".linux", b"kernel" * 1000))[:-512])
    code, out, err = run(capsys, "image", "hash", str(file))
    assert (code, out) == (1, "")
    assert "image.pe" in err
