"""``kbs-rim dtb make qemu``: the bytes that QEMU loads, or the option that stands in the way."""

import gzip
import hashlib
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kbs_rim.cli import main
from kbs_rim.cli.dtb import command
from kbs_rim.measurement.device_tree import facts_of, parse_device_tree

DUMPS = Path(__file__).parent.parent / "vectors" / "images" / "qemu-dtb"
MACHINE = ("-M", "virt,gic-version=3,dtb-randomness=off", "-cpu", "max", "-m", "512M", "-smp", "2")


def make(output: Path, *arguments: object, version: str = "10.0") -> Result:
    words = ["make", "qemu", "--qemu-version", version, "--output", str(output), *map(str, arguments)]
    return CliRunner().invoke(command, words, standalone_mode=False)


def image(path: Path, *, packed: bool = False) -> Path:
    words = (0, 32 << 20, 0xA, 0, 0, 0)
    data = bytes(8) + b"".join(word.to_bytes(8, "little") for word in words) + b"ARMd" + bytes(4096)
    path.write_bytes(gzip.compress(data) if packed else data)
    return path


@pytest.mark.parametrize("version", ["7.2", "10.0", "11.1"])
def test_the_dumped_tree_is_written_and_its_digest_printed(version, tmp_path):
    out = tmp_path / "tree.dtb"
    result = make(out, "--", *MACHINE, "-nographic", version=version)
    assert (result.exception, result.return_value) == (None, 0)
    assert out.read_bytes() == (DUMPS / f"qemu-{version}-smp2.dtb").read_bytes().ljust(1 << 20, b"\0")
    assert result.stdout == f"{hashlib.sha256(out.read_bytes()).hexdigest()}  {out}\n"
    assert "change nothing in the tree: -nographic" in result.stderr


def test_json_names_what_is_ignored(tmp_path):
    out = tmp_path / "tree.dtb"
    document = json.loads(make(out, "--json", "--", *MACHINE, "-device", "acme-card").stdout)
    assert document["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert (document["size"], document["qemu"], document["ignored"]) == (1 << 20, "10.0", ["-device acme-card"])
    assert "not known here" in document["remarks"][0]


def test_the_tree_alone_goes_to_stdout():
    result = make(Path("-"), "--", *MACHINE)
    assert result.stdout_bytes == (DUMPS / "qemu-10.0-smp2.dtb").read_bytes().ljust(1 << 20, b"\0")
    assert hashlib.sha256(result.stdout_bytes).hexdigest() in result.stderr


@pytest.mark.parametrize("packed", [False, True])
def test_kernel_and_initrd_are_looked_at_where_they_matter(packed, tmp_path):
    kernel, initrd, out = image(tmp_path / "Image", packed=packed), tmp_path / "initrd", tmp_path / "tree.dtb"
    initrd.write_bytes(bytes(5000))
    boot = (*MACHINE, "-kernel", "/nowhere/Image", "-initrd", "/nowhere/initrd", "-append", "quiet")
    assert make(out, "--kernel", kernel, "--initrd", initrd, "--", *boot).return_value == 0
    facts = facts_of(parse_device_tree(out.read_bytes()))
    assert (facts.initrd, facts.bootargs) == ((0x48000000, 0x48000000 + 5000), "quiet")
    # With firmware both go another way, and nobody opens them.
    assert make(out, "--", *boot, "-bios", "/nowhere/QEMU_EFI.fd").return_value == 0
    assert facts_of(parse_device_tree(out.read_bytes())).initrd is None


def test_seeds_as_given(tmp_path):
    out = tmp_path / "tree.dtb"
    seeds = ("--kaslr-seed", "00" * 8, "--rng-seed", "11" * 32)
    assert make(out, *seeds, "--", "-M", "virt,gic-version=3", "-cpu", "max").return_value == 0
    assert parse_device_tree(out.read_bytes()).root.child("chosen").properties["rng-seed"] == b"\x11" * 32


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("-device", "tpm-tis-device,tpmdev=t"), 64, "-device tpm-tis-device"),
        (("-device", '{"driver":"virtio-iommu-pci"}'), 64, "-device virtio-iommu-pci: write where it is"),
        (("-device", "virtio-iommu-pci,addr=5", "-M", "virt,iommu=smmuv3"), 1, "-device virtio-iommu-pci"),
        (("-device", "virtio-iommu-device"), 64, "-device virtio-iommu-device"),
        (("-dtb", "f"), 64, "-dtb: QEMU loads the tree in this file"),
        (("-M", "virt,nvdimm=on"), 64, "-M nvdimm"),
        (("-M", "virt,smp-cache.0.cache=l1d"), 64, "-M smp-cache"),
        (("-M", "pc"), 64, "pc is not known"),
        (("-M", "virt,highmem-ecam=off,msi=its"), 64, "-machine msi: QEMU 10.0 has no such property"),
        (("-M", "virt-6.1"), 1, "no such type"),
        (("-M", "virt,dtb-randomness=on"), 64, "dtb-randomness"),
        (("-M", "virt,iommu=acme"), 64, "iommu"),
        (("-cpu", "cortex-a15"), 64, "cortex-a15 is not known"),
        (("-cpu", "max,aarch64=off"), 64, "-cpu aarch64"),
        (("-cpu", "host"), 64, "without KVM"),
        (("-accel", "hvf"), 64, "neither tcg nor kvm"),
        (("-enable-kvm", "-cpu", "host,pmu=on", "-M", "virt,virtualization=on"), 64, "not known with KVM"),
        (("-smp", "9", "-M", "virt,gic-version=2"), 1, "gic-version=2"),
        (("-smp", "4,sockets=3"), 64, "-smp"),
        (("-smp", "2,books=2"), 64, "-smp books"),
        (("-m", "1X"), 64, "-m"),
        (("-numa", "dist,src=0,dst=1,val=20"), 64, "-numa"),
        (("-global", "max-arm-cpu.pmu=off"), 64, "-global"),
        (("-set", "a.b.c=d"), 64, "-set"),
        (("-append", "quiet"), 64, "-append: QEMU wants -kernel"),
        (("-kernel", "/nowhere/Image", "-initrd", "/nowhere/initrd"), 2, "/nowhere/Image"),
        (("-frobnicate",), 64, "-frobnicate"),
    ],
)  # fmt: skip
def test_what_cannot_be_made_is_an_error_that_names_the_option(arguments, code, message, tmp_path, capsys):
    out = tmp_path / "tree.dtb"
    with pytest.raises(SystemExit) as caught:
        main(["dtb", "make", "qemu", "--qemu-version", "10.0.13", "-o", str(out), "--", *MACHINE, *arguments])
    assert caught.value.code == code
    assert message in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--qemu-version", "9.2"), 1),
        (("--kaslr-seed", "00"), 64),
        (("--kaslr-seed", "zz", "--rng-seed", "00"), 64),
        (("--kaslr-seed", "00", "--rng-seed", "00"), 1),
        (("--host-caches", "1,2"), 64),
    ],
)
def test_options_that_are_wrong(options, code, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["dtb", "make", "qemu", "--qemu-version", "10.0", "-o", str(tmp_path / "t"), *options, "--", *MACHINE])
    assert caught.value.code == code, capsys.readouterr().err


def test_a_kernel_that_is_none_and_an_initrd_for_u_boot(tmp_path):
    plain = tmp_path / "plain"
    plain.write_bytes(b"\x27\x05\x19\x56" + bytes(100))
    result = make(tmp_path / "t", "--", *MACHINE, "-kernel", plain, "-initrd", plain)
    assert "is no arm64 Image" in str(result.exception)
    result = make(tmp_path / "t", "--", *MACHINE, "-kernel", image(tmp_path / "Image"), "-initrd", plain)
    assert "wrapped for U-Boot" in str(result.exception)
