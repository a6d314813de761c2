"""``kbs-rim workload learn``: from files and from appraisals, to rules that a broker takes and a realm passes by."""

import asyncio
import hashlib
import json
import tomllib
from pathlib import Path

import pytest
from measured_boot import BOOTS, LOGS, MeasuredBoot

from kbs_rim.appraisal.workload import parse_workload
from kbs_rim.realm.cc_log_lies import BootLie
from kbs_rim.realm.firmware_boot import Disk
from tests.broker_stage import Site, register_image
from tests.cli_broker import run
from tests.pe_builder import PeFile, Section
from tests.stage import QEMU_FIRMWARE, Stage

LINE = "console=ttyAMA0 root=/dev/vda2"
KERNEL = PeFile([Section(".text", hashlib.shake_128(b"a kernel").digest(3000))]).build()
INITRD = b"070701 an initrd"
DISK = Disk(kernel=KERNEL, initrd=INITRD, append=LINE)
EDK2 = BOOTS / "arm64-direct-edk2-2026.08" / "log.bin"
TPM = ("--kind", "tpm", "--mapping", "uefi-rim-to-rem0")


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """The files of the disk, and the log and tree of a realm that booted it."""
    from kbs_rim.realm.simulator import SimulatedRealm

    realm = SimulatedRealm(Stage(vm=QEMU_FIRMWARE).simulation(disk=DISK))
    files = {"vmlinuz": KERNEL, "initrd.img": INITRD, "ccel": realm.cc_log, "dtb": bytes(realm.built.load("DTB").data)}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def known(folder: Path) -> tuple[str, ...]:
    images = ("--image", f"kernel={folder / 'vmlinuz'}", "--image", str(folder / "initrd.img"))
    return (*images, "--device-tree", str(folder / "dtb"), "--command-line", LINE)


def test_rules_go_to_stdout_and_the_review_to_stderr(capsys, disk):
    code, out, err = run(capsys, "workload", "learn", f"cc={disk / 'ccel'}", *known(disk))
    assert code == 0, err
    rules = tomllib.loads(out)
    assert rules["realm"]["rems"] == ["log", "log", "log", "zero"]
    assert rules["runtime"]["command_line"] == {"exact": [LINE]}
    assert [rule["role"] for rule in rules["runtime"]["images"]] == ["kernel", "initrd"]
    assert "# vmlinuz" in out
    assert "no signed REMs" in err
    assert "warning: Secure Boot is off" in err
    assert "The judge lets this boot in by these rules: 18 events." in err
    assert not [line for line in err.splitlines() if line != line.rstrip()]


def test_what_nothing_explains_is_listed_with_advice_and_refused(capsys, disk):
    code, out, err = run(capsys, "workload", "learn", str(disk / "ccel"), "--kind", "cc")
    assert (code, out) == (1, "")
    assert "give the kernel's command line with --command-line" in err
    assert "give the tree that the VM was started with by --device-tree" in err
    assert err.count("NOT LET IN") == 4
    assert "4 events are not explained" in err
    code, out, err = run(capsys, "workload", "learn", str(disk / "ccel"), "--kind", "cc", "--accept-unknown")
    assert code == 0
    assert len(tomllib.loads(out)["runtime"]["digests"]) == 4
    assert "4 events in REM0, REM1, REM2 are let in by bare digests" in err


def test_json_has_the_whole_review(capsys, disk):
    code, out, err = run(capsys, "workload", "learn", f"cc={disk / 'ccel'}", "--json")
    assert (code, err) == (1, "")
    review = json.loads(out)
    assert not review["complete"]
    assert len(review["events"]) == 18
    assert {event["event"] for event in review["events"] if event["let_in_by"] is None} == {1, 13, 14, 15}
    assert all(event["advice"] for event in review["events"] if event["let_in_by"] is None)


@pytest.mark.parametrize("suffix", ["toml", "json"])
def test_into_a_workload_and_through_its_check(capsys, disk, suffix):
    base = {**QEMU_FIRMWARE.workload_document("web"), "realm": {"memory_encryption": "private"}}
    (disk / "base.json").write_text(json.dumps(base))
    out_file = disk / f"learnt.{suffix}"
    arguments = ("workload", "learn", f"cc={disk / 'ccel'}", *known(disk), "--into", str(disk / "base.json"), "--output", str(out_file))
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (0, ""), err
    assert "kbs-rim: wrote workload web" in err
    document = tomllib.loads(out_file.read_text()) if suffix == "toml" else json.loads(out_file.read_text())
    workload = parse_workload(document)
    assert (workload.name, workload.realm.memory_encryption, workload.realm.rems[0]) == ("web", "private", "log")
    assert run(capsys, "workload", "check", str(out_file))[0] == 0
    before = out_file.read_text()
    assert run(capsys, *arguments)[0] == 2
    assert out_file.read_text() == before
    assert run(capsys, *arguments, "--force")[0] == 0


def test_a_workload_that_is_wrong_is_said_before_anything_is_learnt(capsys, disk):
    (disk / "base.json").write_text('{"name": "web"}')
    code, out, err = run(capsys, "workload", "learn", f"cc={disk / 'ccel'}", *known(disk), "--into", str(disk / "base.json"))
    assert (code, out) == (1, "")
    assert "document.workload" in err


def test_every_measured_boot_of_the_vectors(capsys):
    for folder in sorted(path.parent for path in BOOTS.glob("*/oracle.json")):
        line = MeasuredBoot(folder.name).command_line
        code, out, err = run(capsys, "workload", "learn", str(folder / "log.bin"), *TPM, "--accept-unknown", "--command-line", line)
        assert code == 0, err
        assert tomllib.loads(out)["runtime"]["logs"] == [{"kind": "tpm", "pcr_mapping": "uefi-rim-to-rem0"}]


def test_every_ccel_of_the_vectors(capsys):
    for path in sorted((LOGS / "ccel").iterdir()):
        if "table" in path.name:
            continue
        code, out, err = run(capsys, "workload", "learn", f"cc={path}", "--algorithm", "sha384", "--accept-unknown")
        if path.name == "CCEL_data_csv":  # SM3 only
            assert (code, out) == (1, "")
            assert "rem.algorithm" in err
        else:
            assert code == 0, (path, err)
            tomllib.loads(out)


def test_parameters_instead_of_the_exact_line(capsys):
    path = LOGS / "ccel" / "CCEL_AAEL_alibabacloud"
    options = ("--require", "ro", "--allow", "*", "--forbid", "init=*", "--accept-unknown", "--algorithm", "sha384")
    code, out, _ = run(capsys, "workload", "learn", f"cc={path}", *options)
    assert code == 0
    line = tomllib.loads(out)["runtime"]["command_line"]
    assert line == {"required": ["ro"], "allowed": ["*"], "forbidden": ["init=*"], "measured_by": "boot-loader"}


@pytest.mark.parametrize(
    "arguments",
    [
        (), ("--appraisal", "1234", "cc=x"), (str(EDK2),), ("vmm=x",), (str(EDK2), "--kind", "syslog"), (str(EDK2), "--kind", "cel-tlv"),
        ("cc=x", "--into", str(EDK2), "--merge", "y"), ("cc=x", "--forbid", "y"), ("cc=x", "--any", "thing"),
        ("--appraisal", "1234", "--kind", "cc"),
    ],
)  # fmt: skip
def test_usage_errors(capsys, arguments):
    code, out, _ = run(capsys, "workload", "learn", *arguments)
    assert (code, out) == (64, "")


def test_a_log_that_is_not_there_or_no_log(capsys, tmp_path):
    assert run(capsys, "workload", "learn", f"cc={tmp_path / 'absent'}")[0] == 2
    (tmp_path / "junk").write_bytes(b"junk")
    code, _, err = run(capsys, "workload", "learn", f"cc={tmp_path / 'junk'}")
    assert code == 1
    assert "log.spec-id" in err
    code, _, err = run(capsys, "workload", "learn", str(EDK2), "--kind", "tpm")
    assert code == 1
    assert "rem.numbering" in err


# --- with a broker ----------------------------------------------------------------------------------------------------


@pytest.fixture
def kbs(capsys, site: Site, monkeypatch):
    """Run a command as somebody who has a token, beside the broker's event loop."""
    monkeypatch.setenv("KBS_RIM_URL", site.internal_url())

    async def call(who: str, *arguments: str):
        monkeypatch.setenv("KBS_RIM_TOKEN", site.trust.tokens[who])
        return await asyncio.to_thread(run, capsys, *arguments)

    return call


async def test_from_a_refused_appraisal_to_a_release(site: Site, kbs, tmp_path) -> None:
    """The first boot is refused, an auditor learns from it, an administrator registers the rules, the second boot is served."""
    for data, role in ((KERNEL, "kernel"), (INITRD, "initrd")):
        await register_image(site, data, role)
    refused = await site.attempt("qemu-firmware", disk=DISK)
    record = await site.assert_refused(refused, "rem.mismatch")
    ticket, output = record["id"], tmp_path / "learnt.json"
    arguments = ("workload", "learn", "--appraisal", ticket, "--merge", "qemu-firmware", "--command-line", LINE, "--output", str(output))
    code, out, err = await kbs("auditor", *arguments)
    assert (code, out) == (0, ""), err
    assert "the logs replay to the REMs that the RMM signed" in err
    assert "is not registered" not in err
    assert "covered by the RIM" in err
    assert (await site.attempt("qemu-firmware", disk=DISK)).status == 403
    code, _, err = await kbs("admin", "workload", "add", str(output))
    assert code == 0, err
    served = await site.attempt("qemu-firmware", disk=DISK)
    assert served.status == 200, served
    for lie in BootLie:
        assert (await site.attempt("qemu-firmware", disk=DISK, boot_lie=lie)).status == 403, lie


async def test_attack_an_appraisal_whose_logs_are_others_teaches_nothing(site: Site, kbs) -> None:
    refused = await site.attempt("qemu-firmware", disk=DISK, boot_lie=BootLie.LOG_CLAIMED)
    record = await site.assert_refused(refused, "rem.mismatch")
    code, out, err = await kbs("auditor", "workload", "learn", "--appraisal", record["id"], "--accept-unknown")
    assert (code, out) == (1, "")
    assert "rem.replay" in err
    assert "signed REM1" in err


async def test_attack_an_appraisal_of_a_forged_token_teaches_nothing(site: Site, kbs) -> None:
    for lie, finding in (("spliced-platform-token", "realm.binding"), ("debug-platform", "platform.lifecycle")):
        refused = await site.attempt("qemu-firmware", disk=DISK, lie=lie)
        code, out, err = await kbs("auditor", "workload", "learn", "--appraisal", refused.document["ticket"], "--accept-unknown")
        assert (code, out) == (1, "")
        assert finding in err


@pytest.mark.parametrize(
    ("lie", "finding"), [("extra-data", "rim."), ("unregistered-image", "rim.image-unknown"), ("pc-off-entry", "boot.")]
)
async def test_attack_a_realm_of_other_firmware_teaches_nothing(site: Site, kbs, lie, finding) -> None:
    """What a host's own firmware extends REMs with was never run: a genuine token says what was measured, the RIM says by whom."""
    refused = await site.attempt("qemu-firmware", disk=DISK, lie=lie)
    assert refused.status == 403
    code, out, err = await kbs("auditor", "workload", "learn", "--appraisal", refused.document["ticket"], "--accept-unknown")
    assert (code, out) == (1, "")
    assert f"nothing can be learnt from appraisal {refused.document['ticket']}: {finding}" in err


async def test_an_appraisal_without_logs(site: Site, kbs) -> None:
    refused = await site.attempt("qemu-kernel", lie="rem-moved")
    code, out, err = await kbs("auditor", "workload", "learn", "--appraisal", refused.document["ticket"])
    assert (code, out) == (1, "")
    assert "no log of REMs came" in err
    code, _, err = await kbs("auditor", "workload", "learn", "--appraisal", "ffffffff")
    assert code == 1


async def test_images_that_are_not_registered_are_named(site: Site, kbs, disk) -> None:
    code, out, err = await kbs("auditor", "workload", "learn", f"cc={disk / 'ccel'}", *known(disk), "--registry")
    assert code == 0
    assert "vmlinuz (sha256:" in err
    assert "is not registered: kbs-rim image add FILE --role kernel" in err
    assert tomllib.loads(out)["runtime"]["images"]


def test_pcr_0_in_the_rim_is_answered_with_the_mapping_to_try(capsys):
    log = next(iter(sorted(BOOTS.glob("*/log.bin"))))
    code, out, err = run(capsys, "workload", "learn", str(log), "--kind", "tpm", "--mapping", "uefi", "--accept-unknown")
    assert (code, out) == (1, "")
    assert "rem.register" in err
    assert "try --mapping uefi-rim-to-rem0" in err
