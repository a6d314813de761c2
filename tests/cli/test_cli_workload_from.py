"""``kbs-rim workload from`` as people use it: definitions in files, review, JSON, registration at a broker."""

import io
import json
import shlex
import struct
from pathlib import Path

import pytest
from igvm_forge import context, igvm_file, page, platform, policy
from stage import INITRD, KERNEL, QEMU_KERNEL

from kbs_rim.appraisal.workload import parse_workload
from kbs_rim.cli import main

VECTORS = Path(__file__).parent.parent / "vectors"
LINE = (
    "-M virt,gic-version=3,confidential-guest-support=rme0 -object rme-guest,id=rme0,measurement-algorithm=sha256,measurement-log=on "
    "-cpu host -enable-kvm -smp 2 -m 256M -kernel {folder}/Image -initrd {folder}/initrd -append console=ttyAMA0"
)
KVMTOOL = "lkvm run --realm -c 2 -m 256M -k {folder}/Image -i {folder}/initrd -p console=hvc0 --measurement-log"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "Image").write_bytes(KERNEL)
    (tmp_path / "initrd").write_bytes(INITRD)
    return tmp_path


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["workload", "from", *arguments])
    out, err = capsys.readouterr()
    return ended.value.code, out, err


def words(folder: Path, line: str = LINE) -> list[str]:
    return shlex.split(line.format(folder=folder))


def qemu(capsys, folder: Path, *options: str, line: str = LINE) -> tuple[int, str, str]:
    return run(capsys, "qemu-args", "--name", "web", *options, "--", *words(folder, line))


def document_of(capsys, *arguments: str) -> dict:
    code, out, err = run(capsys, *arguments, "--json")
    assert code == 0, err
    document = json.loads(out)
    parse_workload(document)
    return document


def test_the_review_has_rules_images_rims_what_is_open_and_warnings(capsys, folder):
    code, out, err = qemu(capsys, folder, "-c", "fvp")
    assert (code, err) == (0, "")
    for text in (
        "Workload web",
        "device_tree.bootargs",
        '"console=ttyAMA0"',
        "no broker was asked",
        "RIMs, to be",
        "Left open",
        "Warnings",
    ):
        assert text in out


def test_the_review_says_what_happens_without_a_log_and_with_lpa2(capsys, folder):
    """With a measurement log the broker refuses a realm that comes without one; the definition then stands in for the tree only."""
    _, out, _ = qemu(capsys, folder, "-c", "fvp")
    assert "a log comes with the token, as the VMM writes one; a device tree that the guest does not send is made anew" in out
    assert "52-bit addresses may be on" in out
    _, out, _ = qemu(capsys, folder, "-c", "fvp+kvm", line=LINE.replace(",measurement-log=on", ""))
    assert "the VMM writes no log: the broker derives it" in out
    assert "a realm with LPA2 is refused" in out


def test_a_part_of_a_host_is_told_how_to_become_a_whole_one(capsys, folder):
    code, out, err = qemu(capsys, folder, "-c", "fvp", "-c", "kvm")
    assert (code, out) == (1, "")
    assert "kvm is a part of a host and does not say num_bps and num_wps: join it with hardware, as in fvp+kvm" in err


def test_the_rims_are_those_of_measure(capsys, folder):
    _, out, _ = qemu(capsys, folder, "-c", "fvp")
    for rmm in ("1.0", "2.0"):
        with pytest.raises(SystemExit):
            main(["measure", "qemu", "-c", "fvp", "--rmm", rmm, "-k", str(folder / "Image"), "-i", str(folder / "initrd"), "--json", "--",
                  *words(folder)])  # fmt: skip
        assert json.loads(capsys.readouterr()[0])["rim"] in out


def test_a_file_with_the_command_line_gives_the_same(capsys, folder):
    script = folder / "start.sh"
    script.write_text("#!/bin/sh\nexec qemu-system-aarch64 \\\n  " + LINE.format(folder=folder).replace(" -cpu", " \\\n  -cpu") + "\n")
    code, direct, _ = qemu(capsys, folder, "--json")
    assert code == 0
    assert document_of(capsys, "qemu-args", "--name", "web", "--command", str(script)) == json.loads(direct)
    (folder / "cmdline").write_bytes(b"\0".join(word.encode() for word in ("qemu-system-aarch64", *words(folder))) + b"\0")
    assert document_of(capsys, "qemu-args", "--name", "web", "--command", str(folder / "cmdline")) == json.loads(direct)


def test_libvirts_xml_and_qemus_arguments_give_the_same(capsys, folder):
    (folder / "web.xml").write_text(
        "<domain type='kvm'><memory unit='MiB'>256</memory><vcpu>2</vcpu><os><type arch='aarch64' machine='virt'>hvm</type>"
        f"<kernel>{folder}/Image</kernel><initrd>{folder}/initrd</initrd><cmdline>console=ttyAMA0</cmdline></os>"
        "<features><gic version='3'/></features><cpu mode='host-passthrough'/><launchSecurity type='cca' measurement-log='yes'>"
        "<measurement-algo>sha256</measurement-algo></launchSecurity></domain>"
    )
    _, direct, _ = qemu(capsys, folder, "--json")
    assert document_of(capsys, "libvirt-xml", str(folder / "web.xml"), "--name", "web") == json.loads(direct)


def test_kvmtool_and_cloud_hypervisor(capsys, folder):
    code, out, _ = run(capsys, "kvmtool-args", "--name", "k", "--json", "--", *words(folder, KVMTOOL))
    assert code == 0
    assert json.loads(out)["device_tree"]["bootargs"]["exact"] == [" console=hvc0 root=/dev/vda rw  console=hvc0"]
    config = {"payload": {"kernel": f"{folder}/Image", "initramfs": f"{folder}/initrd"}, "memory": {"size": 1 << 28}}
    (folder / "vm.json").write_text(json.dumps(config))
    document = document_of(capsys, "cloud-hypervisor-json", str(folder / "vm.json"), "--name", "c", "-c", "fvp")
    assert (document["device_tree"]["pack"], document["definition"]["without_log"]) == ("cloud-hypervisor", True)


def test_qemus_own_tree_is_named_by_its_digest_or_its_version(capsys, folder):
    line = LINE.replace("-M virt,", "-M virt,dtb-randomness=off,").replace("-cpu host", "-cpu host,pmu=off")
    options = ("--qemu-version", "10.0.13", "-c", "fvp", "--json")
    code, out, err = qemu(capsys, folder, *options, "--tree", "registered", line=line)
    assert code == 0, err
    trees = next(rule for rule in json.loads(out)["images"] if rule["role"] == "device-tree")
    with pytest.raises(SystemExit):
        main(["dtb", "make", "qemu", "--qemu-version", "10.0.13", "-o", str(folder / "a.dtb"), "--json", "--", *words(folder, line)])
    assert trees["images"] == [f"sha256:{json.loads(capsys.readouterr()[0])['sha256']}"]
    code, out, err = qemu(capsys, folder, *options, line=line)
    definition = json.loads(out)["definition"]
    assert (definition["device_trees"], definition["host_address_bits"]) == (["qemu-10.0"], 51)


def test_the_rim_with_qemus_own_tree_is_that_of_measure(capsys, folder):
    """A realm's tree is not that of a VM without CCA: no seeds, the host's address bits, the kernel where the RAM begins."""
    _, out, _ = qemu(capsys, folder, "-c", "fvp", "--qemu-version", "10.0")
    for rmm in ("1.0", "2.0"):
        with pytest.raises(SystemExit):
            main(["measure", "qemu", "-c", "fvp", "--rmm", rmm, "--qemu-version", "10.0", "-k", str(folder / "Image"),
                  "-i", str(folder / "initrd"), "--json", "--", *words(folder)])  # fmt: skip
        assert json.loads(capsys.readouterr()[0])["rim"] in out


def test_a_tree_that_is_given_must_be_that_one(capsys, folder):
    (folder / "web.dtb").write_bytes(bytes(QEMU_KERNEL.script.load("DTB").data))
    code, out, _ = qemu(capsys, folder, "--json", line=LINE + " -dtb {folder}/web.dtb")
    assert code == 0
    assert "device_tree" not in json.loads(out)
    code, _, err = qemu(capsys, folder, line=LINE + " -dtb {folder}/missing.dtb")
    assert (code, "--dtb" in err) == (64, True)


def test_images_of_another_machine_are_named_on_the_side(capsys, folder):
    moved = LINE.format(folder="/nowhere")
    code, _, err = run(capsys, "qemu-args", "--name", "web", "--", *shlex.split(moved))
    assert (code, "--image initrd=FILE" in err) == (2, True)
    options = ("--image", f"kernel={folder}/Image", "--image", f"initrd={folder}/initrd", "--json")
    _, direct, _ = qemu(capsys, folder, "--json")
    code, out, _ = run(capsys, "qemu-args", "--name", "web", *options, "--", *shlex.split(moved))
    assert (code, json.loads(out)) == (0, json.loads(direct))


@pytest.mark.parametrize(
    ("arguments", "code", "words_of_error"),
    [
        (["qemu-args", "--name", "web"], 64, "behind --"),
        (["qemu-args", "--name", "web", "--", "-smp", "x"], 64, "-smp"),
        (["qemu-args", "--name", "web", "--image", "kernel", "--", "-smp", "1"], 64, "ROLE=FILE"),
        (["qemu-args", "--name", "web", "--image", "kernel=a", "--", "-smp", "1"], 64, "the VM loads none"),
        (["qemu-args", "--name", "web", "--", "-smp", "1"], 1, "document.workload-draft"),
        (["qemu-args", "--name", "web", "--register", "--", "-smp", "1"], 64, "no bearer token"),
        (["qemu-args", "--name", "web", "--profile", "kvmtool", "--", "-smp", "1"], 64, "a profile of kvmtool"),
        (["qemu-args", "--name", "web", "--", "-numa", "node", "-kernel", "k"], 2, "no such file"),
        (["libvirt-xml", "missing.xml", "--name", "web"], 2, "missing.xml"),
        (["cloud-hypervisor-json", "missing.json", "--name", "web"], 2, "missing.json"),
    ],
)
def test_errors_say_what_to_do(capsys, monkeypatch, arguments, code, words_of_error):
    monkeypatch.delenv("KBS_RIM_TOKEN_FILE", raising=False)
    monkeypatch.delenv("KBS_RIM_TOKEN", raising=False)
    found, _, err = run(capsys, *arguments)
    assert (found, words_of_error in err) == (code, True), err


def test_hostile_xml_ends_in_one_line(capsys, folder):
    (folder / "bad.xml").write_text('<!DOCTYPE d [<!ENTITY a "b">]><domain>&a;</domain>')
    code, _, err = run(capsys, "libvirt-xml", str(folder / "bad.xml"), "--name", "web")
    assert (code, err.count("\n"), "document.vm-definition" in err) == (1, 1, True)


def test_a_definition_with_flash_is_refused_by_what_it_becomes(capsys, folder):
    cases = json.loads((VECTORS / "images" / "libvirt-argv.json").read_text())["cases"]
    (folder / "flash.xml").write_text(next(case["xml"] for case in cases if case["name"] == "pflash-loader-acpi"))
    code, _, err = run(capsys, "libvirt-xml", str(folder / "flash.xml"), "--name", "web")
    assert (code, "document.vm-arguments: -machine pflash0: firmware in a flash drive" in err) == (1, True)


# --- IGVM -------------------------------------------------------------------------------------------------------------

RAM = ("--ram", "0x80000000,0x10000000")


def test_an_igvm_file_whose_tree_the_host_writes_is_listed_and_refused(capsys):
    file = VECTORS / "images" / "igvm" / "synthetic-cca.igvm"
    code, out, err = run(capsys, "igvm", str(file), "--name", "web", *RAM, "--ipa-bits", "40", "-c", "fvp")
    assert code == 1
    assert "0x8fe00000" in out
    assert "c0484f17a877045047d916d89dd7ed28c22a53828d7d9c6099ea04b0f260d2ba" in out
    assert "document.workload-draft" in err


def test_an_igvm_file_with_all_that_is_measured_gives_a_workload(capsys, folder):
    tree = bytes(QEMU_KERNEL.script.load("DTB").data)
    tree_pages = [page(0x88000000 + at, tree[at : at + 4096]) for at in range(0, len(tree), 4096)]
    parts = [platform(), policy(0), page(0x80000000, b"code"), *tree_pages, context(0x80000000, 0x88000000)]
    (folder / "a.igvm").write_bytes(igvm_file(parts))
    document = document_of(capsys, "igvm", str(folder / "a.igvm"), "--name", "web", *RAM)
    assert [rule["role"] for rule in document["images"]] == ["firmware", "device-tree"]
    assert struct.unpack_from(">I", tree)[0] == 0xD00DFEED


def test_an_igvm_file_for_another_platform_is_refused(capsys, folder):
    (folder / "snp.igvm").write_bytes(igvm_file([platform(kind=2), page(0x1000, b"x"), context(0x1000)]))
    code, _, err = run(capsys, "igvm", str(folder / "snp.igvm"), "--name", "web", *RAM)
    assert (code, "SEV-SNP" in err) == (1, True)


# --- a broker ---------------------------------------------------------------------------------------------------------


def test_registering_brings_images_and_workload_and_finds_them_again(capsys, broker, folder):
    code, out, _ = qemu(capsys, folder, "-c", "fvp")
    assert (code, "not registered" in out) == (0, True)
    code, out, err = qemu(capsys, folder, "-c", "fvp", "--register", "--yes")
    assert code == 0, err
    assert "workload web revision 1" in out
    assert out.count(": registered") == 2
    code, out, err = qemu(capsys, folder, "-c", "fvp", "--register", "--yes", "--json")
    assert code == 0, err
    assert "workload web revision" in err
    images = {rule["role"]: rule["images"][0] for rule in json.loads(out)["images"]}
    by_id = [part for role, image in images.items() for part in ("--image", f"{role}={image}")]
    moved = shlex.split(LINE.format(folder="/nowhere"))
    code, again, _ = run(capsys, "qemu-args", "--name", "web", *by_id, "-c", "fvp", "--json", "--", *moved)
    assert (code, json.loads(again)) == (0, json.loads(out))


def test_nothing_is_registered_without_a_yes(capsys, monkeypatch, broker, folder):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"n\n")))
    code, _, err = qemu(capsys, folder, "--register")
    assert (code, "nothing was registered" in err) == (2, True)
    with pytest.raises(SystemExit):
        main(["workload", "list", "--json"])
    assert json.loads(capsys.readouterr()[0]) == {"workloads": []}


def test_a_registered_tree_is_registered_too(capsys, broker, folder):
    code, out, err = qemu(capsys, folder, "--tree", "registered", "--register", "--yes")
    assert code == 0, err
    assert "web.dtb" in out
    assert out.count(": registered") == 3


def test_an_image_that_was_revoked_is_a_warning(capsys, broker, folder):
    assert qemu(capsys, folder, "--register", "--yes")[0] == 0
    _, out, _ = qemu(capsys, folder, "--json")
    kernel = next(rule["images"][0] for rule in json.loads(out)["images"] if rule["role"] == "kernel")
    with pytest.raises(SystemExit) as ended:
        main(["image", "revoke", kernel, "--reason", "broken"])
    assert ended.value.code == 0
    capsys.readouterr()
    assert "the kernel Image is revoked in the registry" in qemu(capsys, folder)[1]
    code, _, err = qemu(capsys, folder, "--register", "--yes")
    assert (code, "registry.workload-image" in err) == (1, True)
