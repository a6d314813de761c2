"""``kbs-rim simulate``: what it prints and writes is what the other commands read."""

import json
import stat
import struct
from pathlib import Path

import pytest

from kbs_rim.appraisal.endorsement_files import parse_endorsements
from kbs_rim.cli import main
from kbs_rim.evidence.envelope import EVIDENCE_JSON_TYPE, parse_evidence
from kbs_rim.evidence.event_log import LogFormat
from kbs_rim.realm.cc_log_lies import BOOT_LIES, BootLie
from kbs_rim.realm.lies import Lie
from tests.pe_builder import PeFile, Section

IMAGES = Path(__file__).parent.parent / "vectors" / "vmm" / "images"
CHALLENGE = bytes(range(64)).hex()


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return ended.value.code, out, err


@pytest.fixture
def kernel(tmp_path):
    path = tmp_path / "Image"
    path.write_bytes(struct.pack("<IIQQQ24x4sI", 0, 0, 0, 0x20000, 0xA, b"ARMd", 0).ljust(20_000, b"k"))
    return path


@pytest.fixture
def initrd(tmp_path):
    path = tmp_path / "initrd"
    path.write_bytes(b"i" * 10_001)
    return path


def vm(vmm, kernel, initrd, *more):
    return ("simulate", "--vmm", vmm, "--kernel", kernel, "--initrd", initrd, "--memory", "256M", *more)


@pytest.mark.parametrize("vmm", ["qemu", "kvmtool"])
@pytest.mark.parametrize("rmm", ["1.0", "2.0"])
@pytest.mark.parametrize("hash_", ["sha256", "sha512"])
def test_log_rim_recomputes_the_same_rim(capsys, tmp_path, kernel, initrd, vmm, rmm, hash_):
    """The two code paths meet on the command line: the simulator's model and the offline replay."""
    log, tree = tmp_path / "log", tmp_path / "tree"
    arguments = vm(vmm, kernel, initrd, "--rmm", rmm, "--hash", hash_, "--log-out", log, "--dtb-out", tree, "--json")
    code, out, err = run(capsys, *arguments)
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert len(log.read_bytes()) == 65536
    code, out, _ = run(capsys, "log", "rim", log, "--image", kernel, "--image", initrd, "--image", tree, "--rmm", rmm)
    assert code == 0
    assert out.split()[0] == document["rim"]


def test_ripas_last_and_rounding_reach_the_rim(capsys, kernel, initrd):
    rims = set()
    for more in ((), ("--order", "ripas-last"), ("--rounding", "64k"), ("--log-before-rec",), ("--cpus", "2"), ("--breakpoints", "6")):
        code, out, _ = run(capsys, *vm("qemu", kernel, initrd, "--json", *more))
        assert code == 0
        rims.add(json.loads(out)["rim"])
    assert len(rims) == 6


def test_token_check_accepts_the_token_under_the_platforms_key(capsys, tmp_path, kernel, initrd):
    token, cpak, platform = tmp_path / "token", tmp_path / "cpak.pem", tmp_path / "platform.json"
    arguments = ("--platform", platform, "--new-platform", "--challenge", CHALLENGE, "--token-out", token, "--cpak-out", cpak)
    assert run(capsys, *vm("qemu", kernel, initrd, *arguments))[0] == 0
    code, _, err = run(capsys, "token", "check", token, "--challenge", CHALLENGE, "--cpak", cpak)
    assert (code, err) == (0, "")
    assert run(capsys, "token", "check", token, "--challenge", "00" * 64)[0] == 1


def test_the_platform_file_is_made_once_and_kept_private(capsys, tmp_path, kernel, initrd):
    path = tmp_path / "platform.json"
    ids = []
    for _ in range(2):
        code, out, _ = run(capsys, *vm("qemu", kernel, initrd, "--platform", path, "--new-platform", "--json"))
        assert code == 0
        ids.append(json.loads(out)["platform"]["instance_id"])
    assert ids[0] == ids[1]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    code, _, err = run(capsys, *vm("qemu", kernel, initrd, "--platform", tmp_path / "other.json"))
    assert code == 2
    assert "other.json" in err
    path.write_text("{}")
    assert run(capsys, *vm("qemu", kernel, initrd, "--platform", path))[0] == 1


@pytest.mark.parametrize("name", ["endorsements.cbor", "endorsements.json"])
def test_endorsements_are_read_by_the_verifier(capsys, tmp_path, kernel, initrd, name):
    code, out, _ = run(capsys, *vm("kvmtool", kernel, initrd, "--endorsements-out", tmp_path / name, "--json"))
    assert code == 0
    endorsed = parse_endorsements((tmp_path / name).read_bytes(), at=1_795_000_000)
    assert [anchor.instance_id.hex() for anchor in endorsed.trust_anchors] == [json.loads(out)["platform"]["instance_id"]]
    assert len(endorsed.platforms) == 1


def test_evidence_is_an_envelope(capsys, tmp_path, kernel, initrd):
    path, log = tmp_path / "evidence.json", tmp_path / "log"
    assert run(capsys, *vm("qemu", kernel, initrd, "--challenge", CHALLENGE, "--evidence-out", path, "--log-out", log))[0] == 0
    evidence = parse_evidence(EVIDENCE_JSON_TYPE, path.read_bytes())
    assert evidence.log(LogFormat.VMM) == log.read_bytes()


def test_text_names_rim_and_layout(capsys, kernel, initrd):
    code, out, _ = run(capsys, *vm("qemu", kernel, initrd, "--cpus", "3"))
    assert code == 0
    assert out.startswith("RIM:  ")
    for part in ("KERNEL", "0x40000000", "INITRD", "DTB", "LOG", "3 vCPU(s), 1 runnable", "rmm-1.0/4k/log"):
        assert part in out


def test_every_lie_can_be_listed_and_told(capsys, kernel, initrd):
    code, out, _ = run(capsys, "simulate", "--list-lies")
    assert code == 0
    assert all(lie.value in out for lie in Lie)
    code, out, _ = run(capsys, *vm("qemu", kernel, initrd, "--lie", "pc-off-entry", "--json"))
    document = json.loads(out)
    assert (code, document["pc"], document["lie"]["expected"]) == (0, "0x40001000", ["boot.entry-point"])


def test_firmware_boot(capsys, tmp_path):
    firmware = tmp_path / "fw"
    firmware.write_bytes(b"FW CONTENT")
    code, out, _ = run(capsys, "simulate", "--vmm", "qemu", "--boot", "firmware", "--firmware", firmware, "--json")
    document = json.loads(out)
    assert code == 0
    assert (document["pc"], document["x0"], document["images"][0]["base"]) == ("0x0", "0x0", "0x0")


@pytest.mark.parametrize(
    "more",
    [
        ("--vmm", "xen"), ("--memory", "1.5G"), ("--challenge", "zz"), ("--challenge", "00"), ("--token-out", "t"), ("--lie", "white"),
        ("--extend", "0=00"), ("--extend", "1=0"), ("--cpus", "0"), ("--log-style", "x"), ("--boot", "firmware"), ("--no-such-option",),
    ],
)  # fmt: skip
def test_usage_errors(capsys, kernel, initrd, more):
    assert run(capsys, *vm("qemu", kernel, initrd, *more))[0] == 64


def test_what_cannot_be_built_is_said(capsys, tmp_path, kernel, initrd):
    (tmp_path / "text").write_text("no kernel" * 20)
    code, out, err = run(capsys, *vm("qemu", tmp_path / "text", initrd))
    assert (code, out) == (2, "")
    assert "arm64" in err
    assert run(capsys, *vm("qemu", tmp_path / "absent", initrd))[0] == 2
    assert run(capsys, *vm("kvmtool", kernel, initrd, "--memory", "257M"))[0] == 1
    assert run(capsys, *vm("qemu", kernel, initrd, "--hash", "sha384"))[0] == 2


def test_extends_move_a_register(capsys, kernel, initrd):
    code, out, _ = run(capsys, *vm("qemu", kernel, initrd, "--extend", "1=" + "ab" * 32, "--json"))
    rems = json.loads(out)["rems"]
    assert code == 0
    assert rems[0] != "00" * 32
    assert rems[1:] == ["00" * 32] * 3


@pytest.mark.parametrize("vmm", ["qemu", "kvmtool"])
def test_the_device_tree_goes_where_it_is_told_to(capsys, tmp_path, kernel, initrd, vmm):
    sent, tree, log = tmp_path / "evidence", tmp_path / "tree", tmp_path / "log"
    for way in ("none", "envelope", "log"):
        outputs = ("--challenge", CHALLENGE, "--evidence-out", sent, "--dtb-out", tree, "--log-out", log)
        code, _, err = run(capsys, *vm(vmm, kernel, initrd), "--send-dtb", way, *outputs)
        assert code == 0, err
        evidence = parse_evidence(EVIDENCE_JSON_TYPE, sent.read_bytes())
        assert (evidence.device_tree == tree.read_bytes()) == (way == "envelope")
        assert (tree.read_bytes().rstrip(b"\0") in log.read_bytes()) == (way == "log")


def test_a_realm_of_a_vmm_without_log(capsys, tmp_path, kernel, initrd):
    """The evidence has none, and the RIM is that of a VM that has no room for one."""
    evidence = tmp_path / "evidence"
    options = ("--challenge", CHALLENGE, "--evidence-out", evidence, "--json")
    code, out, err = run(capsys, *vm("qemu", kernel, initrd, "--without-log", *options))
    assert (code, err) == (0, "")
    assert parse_evidence(EVIDENCE_JSON_TYPE, evidence.read_bytes()).logs == ()
    _, plain, _ = run(capsys, *vm("qemu", kernel, initrd, "--no-log", "--json"))
    assert json.loads(out)["rim"] == json.loads(plain)["rim"]
    assert run(capsys, *vm("qemu", kernel, initrd, "--without-log", "--log-out", tmp_path / "log"))[0] == 64


@pytest.fixture
def disk(tmp_path):
    """Options of a realm whose firmware boots a disk."""
    (tmp_path / "firmware").write_bytes(b"firmware" * 600)
    (tmp_path / "vmlinuz").write_bytes(PeFile([Section(".text", b"a kernel")]).build())
    return (
        *("simulate", "--vmm", "qemu", "--boot", "firmware", "--firmware", tmp_path / "firmware", "--memory", "256M"),
        *("--disk-kernel", tmp_path / "vmlinuz", "--disk-append", "quiet"),
    )


def test_the_firmwares_log_is_written_and_sent(capsys, tmp_path, disk):
    files = ("--cc-log-out", tmp_path / "area", "--ccel-table-out", tmp_path / "table", "--evidence-out", tmp_path / "evidence")
    code, out, err = run(capsys, *disk, *files, "--challenge", CHALLENGE, "--json")
    assert (code, err) == (0, "")
    assert [rem.strip("0") != "" for rem in json.loads(out)["rems"]] == [True, True, True, False]
    sent = parse_evidence(EVIDENCE_JSON_TYPE, (tmp_path / "evidence").read_bytes()).log(LogFormat.CC)
    assert sent == (tmp_path / "area").read_bytes()
    code, shown, _ = run(capsys, "log", "show", tmp_path / "table")
    assert (code, "Arm CCA" in shown) == (0, True)
    code, shown, _ = run(capsys, "log", "show", "--registers", "--kind", "cc", tmp_path / "area")
    assert code == 0
    assert [line.split()[2] for line in shown.splitlines()] == json.loads(out)["rems"][:3]


@pytest.mark.parametrize("lie", BootLie)
def test_lies_about_a_measured_boot(capsys, disk, lie):
    code, out, _ = run(capsys, *disk, "--lie", lie.value, "--json")
    assert code == 0
    assert json.loads(out)["lie"] == {"name": lie.value, "about": BOOT_LIES[lie].about, "expected": sorted(BOOT_LIES[lie].findings)}
    assert lie.value in run(capsys, "simulate", "--list-lies")[1]


def test_options_of_a_disk_that_is_not_there(capsys, tmp_path, kernel, initrd, disk):
    without = disk[:-4]
    for more in (("--disk-append", "x"), ("--secure-boot", tmp_path / "firmware"), ("--cc-log-out", tmp_path / "area")):
        assert run(capsys, *without, *more)[0] == 64
    assert run(capsys, *without, "--lie", "cc-log-dropped")[0] == 2
    assert run(capsys, *disk, "--disk-uki", tmp_path / "vmlinuz")[0] == 2
    assert run(capsys, *vm("qemu", kernel, initrd, "--disk-kernel", kernel))[0] == 2


def test_a_realm_of_a_host_with_lpa2_is_one_that_the_calculator_knows(capsys, tmp_path, kernel):
    """``-c fvp`` alone has LPA2: without --lpa2 no simulated realm has the RIM that is computed for it."""
    tree = tmp_path / "tree"
    line = ("--realm", "-c", "2", "-m", "256", "-k", kernel, "-p", "quiet", "--irqchip=gicv3-its")
    code, out, err = run(capsys, "measure", "kvmtool", "-c", "fvp", "-k", kernel, "--output-dtb", tree, "--json", "--", *line)
    assert code == 0, err
    wanted = json.loads(out)
    fvp = ("--num-bps", 16, "--num-wps", 16, "--sve-bits", 512, "--memory", "256M", "--cpus", 2, "--append", "quiet", "--dtb", tree)
    arguments = ("simulate", "--vmm", "kvmtool", "--kernel", kernel, *fvp, "--without-log", "--json")
    plain, ours = (json.loads(run(capsys, *arguments, *more)[1]) for more in ((), ("--lpa2",)))
    assert (plain["parameters"]["flags"] & 1, ours["parameters"]["flags"] & 1) == (0, 1)
    assert wanted["rim"] == ours["rim"] != plain["rim"], (wanted, ours)
