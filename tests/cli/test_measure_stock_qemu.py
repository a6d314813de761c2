"""``kbs-rim measure qemu --qemu-version``: a realm with the tree that QEMU makes itself; and the ways around ``--``."""

import hashlib
import json
from pathlib import Path

import pytest

from kbs_rim.cli import main
from kbs_rim.cli.measure_view import print_steps
from kbs_rim.measurement.device_tree import parse_device_tree
from kbs_rim.measurement.rmm import RipasEntry
from kbs_rim.measurement.vmm.calculation import Step

IMAGES = Path(__file__).parent.parent / "vectors" / "vmm" / "images"
FILES = ("-c", "fvp", "-c", "kvm", "-k", str(IMAGES / "linux.bin"), "-i", str(IMAGES / "initrd.bin"))
REALM = (
    "-M", "virt,gic-version=3,confidential-guest-support=r", "-object", "rme-guest,id=r,measurement-algorithm=sha256", "-cpu", "host",
    "-accel", "kvm", "-smp", "2", "-m", "1G", "-kernel", "k", "-initrd", "i", "-append", "console=ttyAMA0",
)  # fmt: skip
CACHES = ("--host-caches", "64,65536,256,64,65536,256")


def run(capfd, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    out, err = capfd.readouterr()
    return ended.value.code, out, err


@pytest.mark.parametrize("version", ["7.2", "10.0.13", "11.1"])
def test_the_rim_is_that_of_the_tree_of_dtb_make(capfd, tmp_path, version):
    facts = CACHES if version == "11.1" else ()
    code, out, err = run(capfd, "measure", "qemu", *FILES, "--qemu-version", version, *facts, "--json", "--", *REALM)
    assert code == 0, err
    document, tree = json.loads(out), tmp_path / "stock.dtb"
    where = ("--kernel", str(IMAGES / "linux.bin"), "--initrd", str(IMAGES / "initrd.bin"), "--host-pmu", "--host-address-bits", "51")
    made = run(capfd, "dtb", "make", "qemu", "--qemu-version", version, *where, *facts, "-o", str(tree), "--", *REALM)
    assert made[0] == 0, made
    given = run(capfd, "measure", "qemu", *FILES, "--dtb", str(tree), "--json", "--", *REALM)
    assert document["dtb_sha256"] == hashlib.sha256(tree.read_bytes()).hexdigest()
    assert json.loads(given[1])["rim"] == document["rim"]
    assert (document["dtb_size"], document["qemu_version"]) == (1 << 20, ".".join(version.split(".")[:2]))
    assert document["operations"][3] == "data_measured 0x48200000 0x48300000"
    assert "device tree" not in err


def test_without_the_option_the_tree_is_made_here_and_that_is_said(capfd):
    code, out, err = run(capfd, "measure", "qemu", *FILES, "--json", "--", *REALM)
    document = json.loads(out)
    assert (code, document["dtb_size"] < 8192, "qemu_version" in document) == (0, True, False)
    assert "qemu is not told to load a device tree and would make its own" in err
    assert "--qemu-version" in err
    quiet = run(capfd, "measure", "qemu", "-q", *FILES, "--json", "--", *REALM)
    assert quiet == (0, out, "")


def test_what_changes_qemus_own_tree_is_measured_not_refused(capfd):
    """A second serial port and NUMA stand in that tree; the tree made here has neither."""
    node = ("-object", "memory-backend-ram,id=a,size=1G", "-numa", "node,memdev=a")
    seen = set()
    for more in (
        (),
        ("-M", "iommu=smmuv3"),
        node,
        ("-serial", "null", "-serial", "stdio"),
        ("-M", "phandle-start=0x100"),
        ("-M", "its=off"),
    ):
        code, out, err = run(capfd, "measure", "qemu", *FILES, "--qemu-version", "10.0", "--json", "--", *REALM, *more)
        assert code == 0, err
        assert not {"-serial", "-M phandle-start"} & set(json.loads(out)["ignored"])
        seen.add(json.loads(out)["rim"])
    assert len(seen) == 6


def test_seeds_and_host_facts(capfd, tmp_path):
    tree = tmp_path / "tree.dtb"
    seeds = ("--kaslr-seed", "01" * 8, "--rng-seed", "02" * 32, "--no-host-pmu", "--output-dtb", str(tree))
    code, _, err = run(capfd, "measure", "qemu", *FILES, "--qemu-version", "10.0", *seeds, "--", *REALM)
    assert code == 0, err
    root = parse_device_tree(tree.read_bytes()).root
    assert root.child("chosen").properties["kaslr-seed"] == b"\1" * 8
    assert root.child("pmu") is None


@pytest.mark.parametrize(
    ("before", "behind", "code", "words"),
    [
        (["--qemu-version", "9.1"], [], 1, "7.2, 10.0, 11.1"),
        (["--qemu-version", "11.1"], [], 1, "--host-caches"),
        (["--qemu-version", "10.0"], ["-dtb", "t"], 64, "-dtb: QEMU loads the tree"),
        (["--qemu-version", "10.0", "--dtb", "t"], [], 64, "leave out either"),
        (["--qemu-version", "10.0", "--kaslr-seed", "00"], [], 64, "belong together"),
        (["--rng-seed", "00"], [], 64, "--rng-seed is about the tree"),
        (["--qemu-version", "10.0"], ["-M", "dtb-randomness=on"], 64, "dtb-randomness"),
        (["--qemu-version", "10.0"], ["-cpu", "cortex-a57"], 64, "host"),
        (["--qemu-version", "10.0"], ["-device", "tpm-tis-device"], 64, "tpm-tis-device"),
        (["--qemu-version", "10.0"], ["-m", "1G,maxmem=900G,slots=1", "-smp", "200"], 0, ""),
    ],
)
def test_an_error_names_the_option(capfd, before, behind, code, words):
    found, _, err = run(capfd, "measure", "qemu", *FILES, *before, "--", *REALM, *behind)
    assert (found, words in err) == (code, True), err


def test_only_qemu_makes_qemus_tree(capfd):
    code, _, err = run(capfd, "measure", "--qemu-version", "10.0", "-c", "fvp", "kvmtool", "--", "-c", "1", "-m", "512M")
    assert (code, "kvmtool is not QEMU" in err) == (64, True)


def test_the_lines_of_the_reference_need_no_dashes(capfd):
    """Its own options, the VMM's name, what the VMM is started with; options behind the name stay options of ours."""
    arguments = ("-c", "2", "-m", "512M", "--realm", "-k", "Image", "--dtb", "t")
    plain = run(capfd, "measure", *FILES[:-2], "kvmtool", "--", *arguments)
    code, out, err = run(capfd, "measure", *FILES[:-2], "kvmtool", *arguments)
    assert (code, out, "no -- stands there" in err) == (0, plain[1], True)
    assert run(capfd, "measure", "-q", *FILES[:-2], "kvmtool", *arguments) == (0, plain[1], "")
    code, out, err = run(capfd, "measure", "kvmtool", *arguments)
    assert (code, out, "stands behind --" in err) == (64, "", True)
    code, _, err = run(capfd, "measure", "-c", "fvp", "kvmtool", "--num-bps", "1", "--json")
    assert (code, "--num-bps" in err) == (64, True)


def test_the_tree_alone_goes_to_stdout(capfdbinary, tmp_path):
    tree = tmp_path / "tree.dtb"
    said = []
    for target in (str(tree), "-"):
        with pytest.raises(SystemExit) as ended:
            main(["measure", "kvmtool", "-c", "fvp", "--output-dtb", target, "--", "-c", "1", "-m", "512M", "--realm", "--dtb", "t"])
        assert ended.value.code == 0
        said.append(capfdbinary.readouterr())
    assert said[1].out == tree.read_bytes()
    assert (said[1].err, said[0].err) == (said[0].out, b"")


def test_steps_are_printed_as_they_come(capsys):
    """A realm of 255 GiB has millions; none is kept."""

    def steps():
        for number in range(3):
            yield Step(RipasEntry(number * 4096, (number + 1) * 4096), 1, bytes([number]) * 32)
            assert capsys.readouterr().out.startswith(f"{number:02x}" * 32)

    print_steps(steps())
