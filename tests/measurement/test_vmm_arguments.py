"""Command lines of VMMs: what they define, what they refuse, and that the refusal names the option."""

import json
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbs_rim.errors import InvalidDocument
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.measurement.vmm.argument_values import (
    SUFFIXES,
    Property,
    join_properties,
    parse_size,
    properties_of,
    split_bracketed,
    split_properties,
)
from kbs_rim.measurement.vmm.arguments import parse_arguments
from kbs_rim.measurement.vmm.definition import VMMS, CpuTopology, SveSwitch, VmDefinition
from kbs_rim.measurement.vmm.qemu_options import CPU_IGNORED, IGNORED_FLAGS, IGNORED_VALUES, MACHINE_IGNORED, MEASURED_VALUES

VECTORS = Path(__file__).parent.parent / "vectors"
MIB, GIB = 1 << 20, 1 << 30
QUIET = ("-dtb", "t", "-object", "rme-guest,id=r")


def qemu(*arguments: str) -> VmDefinition:
    return parse_arguments("qemu", arguments)


def kvmtool(*arguments: str) -> VmDefinition:
    return parse_arguments("kvmtool", ("--realm", "-c", "1", "-m", "512M", *arguments))


def cloud(*arguments: str) -> VmDefinition:
    return parse_arguments("cloud-hypervisor", arguments)


# Values ---------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 1 << 12), st.sampled_from("BKMGT"), st.booleans())
def test_a_size_is_its_number_times_its_suffix(number, suffix, lower):
    text = f"{number}{suffix.lower() if lower else suffix}"
    assert parse_size("-m", text) == number * SUFFIXES[suffix]
    assert parse_size("-m", str(number)) == number * MIB
    assert parse_size("-m", str(number), unit=1) == number


@given(st.integers(0, 500), st.integers(0, 7), st.sampled_from("KMG"))
def test_fractions_are_exact(whole, eighths, suffix):
    text = f"{whole + eighths / 8}{suffix}"
    assert parse_size("-m", text) == whole * SUFFIXES[suffix] + eighths * SUFFIXES[suffix] // 8


@pytest.mark.parametrize("text", ["", "M", "-1M", "1MM", "1 M", "0x10", "1e3", "1.M", "0.3B", "٣M", "1E", "9999999999999P", "1M\n"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(InvalidDocument, match="-m") as refused:
        parse_size("-m", text)
    assert refused.value.finding_id == "document.vm-arguments"


words = st.text(alphabet=string.ascii_letters + "-_", min_size=1, max_size=8)
values = st.text(alphabet=string.printable.strip() + " é", max_size=12)


@given(st.lists(st.one_of(st.builds(Property, words, values), st.builds(Property, st.just(""), words)), min_size=1, max_size=6))
def test_option_lists_are_read_as_they_were_written(items):
    assert split_properties(join_properties(tuple(items)), escaped=True) == tuple(items)


@given(st.text(max_size=60))
def test_any_text_is_a_list(text):
    assert split_properties(text, escaped=True)
    assert split_bracketed(text)
    assert "".join(f"{item.key}{item.value}" for item in split_properties(text, escaped=False)).count(",") == 0


def test_commas():
    assert split_properties("a,,b,c=d,,,,e", escaped=True) == (Property("", "a,b"), Property("c", "d,,e"))
    assert split_properties("a,", escaped=True) == (Property("", "a"), Property("", ""))
    assert split_bracketed('boot=4,affinity=[0@[1,2],1@[3]],x="1,2"') == (
        Property("boot", "4"), Property("affinity", "[0@[1,2],1@[3]]"), Property("x", '"1,2"'),
    )  # fmt: skip


def test_json_forms():
    plain = properties_of("-object", "rme-guest,id=r,measurement-log=on", "qom-type")
    assert properties_of("-object", '{"id":"r","qom-type":"rme-guest","measurement-log":true}', "qom-type") == plain
    for text in ("{", "{}", '{"qom-type":1}', "{" * 5000, '{"qom-type":"a","qom-type":"b"}'):
        with pytest.raises(InvalidDocument, match="-object"):
            properties_of("-object", text, "qom-type")


# QEMU -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "topology"),
    [
        ([], (1, 1, 1, 1)),
        (["-smp", "4"], (1, 1, 4, 1)),
        (["-smp", "cpus=8"], (1, 1, 8, 1)),
        (["-smp", "cores=2,maxcpus=8"], (4, 1, 2, 1)),
        (["-smp", "cores=2,sockets=2,maxcpus=16"], (2, 1, 2, 4)),
        (["-smp", "12", "-smp", "clusters=2,threads=2"], (1, 2, 3, 2)),
        (["-smp", "threads=2,cores=2,sockets=2,clusters=2"], (2, 2, 2, 2)),
        (["-smp", "2,sockets=2,cores=1,threads=1,dies=1"], (2, 1, 1, 1)),
    ],
)
def test_qemu_topologies(arguments, topology):
    assert qemu(*arguments).topology == CpuTopology(*topology)


@pytest.mark.parametrize(
    ("value", "size", "most", "slots"),
    [
        ("512", 512 * MIB, None, 0),
        ("size=2097152k", 2 * GIB, None, 0),
        ("3G,slots=2,maxmem=8G", 3 * GIB, 8 * GIB, 2),
        ("1.5g", 3 * GIB // 2, None, 0),
        ("1048577B", MIB + 8192, None, 0),
        ("0x400", GIB, None, 0),
    ],
)
def test_qemu_memory(value, size, most, slots):
    found = qemu("-m", value)
    assert (found.ram_size, found.ram_max, found.hotplug_slots) == (size, most, slots)


def test_qemu_reads_everything_that_is_measured():
    found = qemu(
        "/usr/bin/qemu-system-aarch64", "-M", "virt-9.1,gic-version=3,its=off,confidential-guest-support=r", "--cpu",
        "host,num-breakpoints=4,num-watchpoints=3,num-pmu-counters=2,pmu=on,sve512=off,sve=on", "-smp=2", "-m", "1G", "-kernel", "K",
        "-initrd", "I", "-append", "console=ttyAMA0 a,b=c,,d", "-object",
        "rme-guest,id=r,measurement-algorithm=sha384,personalization-value=AQID,measurement-log=on", "-dtb", "T",
    )  # fmt: skip
    assert found.images == {"kernel", "initrd"}
    assert (found.machine, found.cpu_model, found.its, found.measurement_log, found.pmu) == ("virt-9.1", "host", False, True, True)
    assert found.bootargs == "console=ttyAMA0 a,b=c,,d"
    assert found.hash_algorithm is HashAlgorithm.SHA384
    assert found.rpv == bytes([1, 2, 3]).ljust(64, b"\0")
    assert (found.limits.num_bps, found.limits.num_wps, found.limits.pmu_num_ctrs) == (4, 3, 2)
    assert found.sve_switches == (SveSwitch(512, on=False), SveSwitch(0, on=True))
    assert (found.ignored, found.tree_changes, found.remarks) == ((), (), ())


def test_the_first_series_had_limits_on_the_guest_object():
    limits = qemu("-object", "rme-guest,sve-vector-length=256,num-breakpoints=4,num-watchpoints=5,num-pmu-counters=6").limits
    assert (limits.sve_vl, limits.num_bps, limits.num_wps, limits.pmu_num_ctrs) == (256, 4, 5, 6)
    assert qemu("-object", "rme-guest,measurement-algo=sha256").hash_algorithm is HashAlgorithm.SHA256


def test_machine_properties_may_name_images():
    found = qemu("-machine", "type=virt,kernel=K,initrd=I,append=quiet,dtb=T", *QUIET)
    assert (found.images, found.bootargs, found.remarks) == ({"kernel", "initrd"}, "quiet", ())


def test_options_without_effect_are_named():
    found = qemu("-nographic", "-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n", "-M", "virt,acpi=off", *QUIET)
    assert found.ignored == ("-nographic", "-netdev", "-device virtio-net-pci", "-M acpi")
    assert found.remarks == ()


def test_the_user_is_told_what_may_not_be_as_meant():
    remarks = " ".join(qemu("-append", "x", "-initrd", "i", "-device", "frobnicator").remarks)
    for word in ("-initrd without -kernel", "-append", "rme-guest", "frobnicator"):
        assert word in remarks


def test_whether_a_tree_is_given():
    assert [qemu().tree_given, qemu("-dtb", "t").tree_given, qemu("-M", "virt,dtb=t").tree_given] == [False, True, True]
    assert [kvmtool().tree_given, kvmtool("--dtb", "t").tree_given, cloud("--dtb", "t").tree_given] == [False, True, None]


@pytest.mark.parametrize("arguments", [["-numa", "node"], ["-device", "arm-smmuv3"], ["-M", "virt,iommu=smmuv3"], ["-tpmdev", "x"]])
def test_what_changes_the_tree_is_kept_apart(arguments):
    assert len(qemu(*arguments).tree_changes) == 1


def test_every_name_stands_in_one_table():
    assert not IGNORED_FLAGS & IGNORED_VALUES
    assert not IGNORED_VALUES & MEASURED_VALUES
    for name in sorted(IGNORED_VALUES):
        assert qemu(f"-{name}", "x").ignored == (f"-{name}",)
    for name in sorted(IGNORED_FLAGS):
        assert qemu(f"-{name}").ignored == (f"-{name}",)
    for name in sorted(MACHINE_IGNORED - {"confidential-guest-support", "dtb"}):
        assert qemu("-M", f"virt,{name}=x").ignored == (f"-M {name}",)
    for name in sorted(CPU_IGNORED):
        assert qemu("-cpu", f"host,{name}=on").ignored == (f"-cpu {name}",)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-foo"], "-foo: is not an option"),
        (["-kernal", "x"], "did you mean -kernel"),
        (["disk.img"], "disk.img: is no option"),
        (["-m"], "-m: needs a value"),
        (["-nographic=yes"], "-nographic: takes no value"),
        (["-m", "1X"], "-m: '1X' is not a size"),
        (["-m", "2G,maxmem=1G"], "-m: maxmem is below size"),
        (["-m", "weight=5"], "-m: weight is not one of"),
        (["-smp", "5,cores=2"], "do not make 5 CPUs"),
        (["-smp", "2,maxcpus=4"], "hotplug"),
        (["-smp", "0"], "-smp: '0' is not a whole number"),
        (["-smp", "dies=2"], "-smp dies"),
        (["-smp", "sockets=30,cores=30"], "from 1 to 512"),
        (["-M", "virt,gic-version=2"], "-M gic-version"),
        (["-M", "q35"], "q35"),
        (["-M", "virt,virt"], "virt is not modelled"),
        (["-device", "loader,file=x,addr=0x48000000"], "-device loader: what it loads"),
        (["-device", '{"driver": "guest-loader", "addr": "0x48000000"}'], "-device guest-loader: what it loads"),
        (["-M", "virt,highmem=off"], "-M highmem"),
        (["-M", "virt,secure=on"], "-M secure"),
        (["-M", "virt,its=perhaps"], "neither on, off nor auto"),
        (["-machine", "virt,flux=on"], "-machine: flux"),
        (["-object", "rme-guest,measurement-algorithm=md5"], "measurement-algorithm: 'md5' is not a hash"),
        (["-object", "rme-guest,personalization-value=?"], "not base64"),
        (["-object", "rme-guest,personalization-value=" + "A" * 88], "at most 64 bytes"),
        (["-object", "rme-guest,flux=1"], "flux is not a property of rme-guest"),
        (["-object", "tdx-guest,id=t"], "not Arm CCA"),
        (["-object", "rme-guest,sve-vector-length=100"], "multiple of 128"),
        (["-cpu", "host,flux=1"], "-cpu: flux"),
        (["-cpu", "host,sveX=on"], "-cpu sveX"),
        (["-cpu", "host,num-breakpoints=1"], "-cpu num-breakpoints: '1' is not a whole number from 2 to 64"),
        (["-pflash", "f"], "-pflash: firmware in a flash drive"),
        (["-drive", "file=f,if=pflash"], "-drive: firmware in a flash drive"),
        (["-readconfig", "f"], "-readconfig"),
        (["-append", "a\0b"], "NUL"),
        (["-append", "\udcff"], "not UTF-8"),
        (["-append", "x" * 70000], "characters"),
        (["-S"] * 5000, "more than 4096"),
    ],
)
def test_qemu_refuses_and_names_the_option(arguments, words):
    with pytest.raises(InvalidDocument) as refused:
        qemu(*arguments)
    assert refused.value.finding_id == "document.vm-arguments"
    assert words in str(refused.value)


LIBVIRT = [
    case for case in json.loads((VECTORS / "images" / "libvirt-argv.json").read_text())["cases"] if case["error"] is None and case["argv"]
]
NOT_MODELLED = ("hotplug", "GICv3", "flash drive", "tdx-guest", "sev-", "not modelled", "virtualization", "secure", "highmem")


@pytest.mark.parametrize("case", LIBVIRT, ids=lambda case: case["name"])
def test_what_libvirt_writes_is_read_or_refused_for_a_reason(case):
    try:
        found = qemu(*case["argv"])
    except InvalidDocument as error:
        reason = str(error)
    else:
        reason = "hotplug" if found.topology.count < 1 else ""
    assert not reason or any(word in reason for word in NOT_MODELLED), reason


def test_the_usual_domain_of_libvirt_is_read():
    found = qemu(*next(case["argv"] for case in LIBVIRT if case["name"] == "topology"))
    assert found.topology == CpuTopology(1, 2, 2, 2)
    assert (found.machine, found.cpu_model, found.ram_size, found.images) == ("virt-11.1", "cortex-a57", 2 * GIB, {"kernel", "initrd"})
    assert found.bootargs == "console=ttyAMA0"


# kvmtool --------------------------------------------------------------------------------------------------------------


def test_kvmtool_reads_everything_that_is_measured():
    found = parse_arguments("kvmtool", [
        "lkvm", "run", "--realm", "-c4", "--mem=1G", "-k", "K", "--initrd", "I", "-f=F", "--firmware-address", "0x90000000", "-p",
        "a b", "--measurement-algo=sha512", "--pmu", "--pmu-counters", "3", "--sve-max-vl", "256", "--realm-pv", "é", "--irqchip", "gicv3",
        "--measurement-log",
    ])  # fmt: skip
    assert found.topology.count == 4
    assert (found.ram_size, found.images, found.firmware_base) == (GIB, {"kernel", "initrd", "firmware"}, 0x90000000)
    assert (found.bootargs, found.hash_algorithm, found.pmu, found.its) == ("a b", HashAlgorithm.SHA512, True, False)
    assert (found.limits.pmu_num_ctrs, found.limits.sve_vl, found.measurement_log) == (3, 256, True)
    assert found.rpv == "é".encode().ljust(64, b"\0")
    assert found.remarks == ()


@pytest.mark.parametrize(
    ("arguments", "devices"),
    [
        ([], 1),
        (["-n", "mode=none"], 0),
        (["-n", "mode=user"], 1),
        (["-n", "mode=user", "-n", "mode=tap,tapif=t0"], 2),
        (["-n", "trans=mmio,tapif=t0"], 1),
        (["-n", "mode=none", "--rng", "--balloon", "-d", "a", "-d", "b", "--9p", "x,y", "--vsock", "3", "--console", "virtio"], 7),
        (["-n", "mode=none", "--console", "serial"], 0),
    ],
)
def test_kvmtool_counts_its_mmio_devices(arguments, devices):
    assert kvmtool("--virtio-transport", "mmio", *arguments).virtio_mmio == devices
    if "trans=mmio,tapif=t0" not in arguments:
        assert kvmtool(*arguments).virtio_mmio == 0


def test_a_seed_in_kvmtools_tree_is_kept_apart():
    assert kvmtool("--kaslr-seed", "7").tree_changes == ("--kaslr-seed: it goes into the device tree",)


def test_kvmtool_ignores_by_name():
    arguments = ["--debug", "--debug-single-step", "--debug-mmio", "--force-pci", "--no-pvtime", "--vcpu-affinity", "A", "--disable-mte"]
    assert kvmtool(*arguments).ignored == tuple(argument for argument in arguments if argument != "A")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-m", "64M"], "-c: is missing"),
        (["-c", "1"], "-m: is missing"),
        (["-c", "1", "-m", "64M@0x90000000"], "another base address"),
        (["-c", "1", "-m", "3M"], "not a multiple of 2M"),
        (["-c", "1", "-m", "64M", "--restricted-mem"], "did you mean --restricted_mem"),
        (["-c", "1", "-m", "64M", "--sve-vl", "512"], "--sve-vl: is not an option"),
        (["-c", "1", "-m", "64M", "-F", "f"], "-F: flash"),
        (["-c", "1", "-m", "64M", "-z"], "-z: is not an option"),
        (["-c", "1", "-m", "64M", "--aarch32"], "AArch64"),
        (["-c", "1", "-m", "64M", "--irqchip", "gicv2"], "--irqchip: 'gicv2' is not modelled"),
        (["-c", "1", "-m", "64M", "-n", "user"], "-n: 'user' has no ="),
        (["-c", "1", "-m", "64M", "-n", "trans=mmio"], "trans=mmio is not the transport"),
        (["-c", "1", "-m", "64M", "--sve-max-vl", "100"], "multiple of 128"),
        (["-c", "1", "-m", "64M", "--realm-pv", "x" * 65], "at most 64 bytes"),
        (["-c", "1", "-m", "64M", "--pmu=on"], "--pmu: takes no value"),
        (["-c", "1", "-m", "64M", "--", "x"], "--: is not an option"),
    ],
)
def test_kvmtool_refuses_and_names_the_option(arguments, words):
    with pytest.raises(InvalidDocument) as refused:
        parse_arguments("kvmtool", arguments)
    assert words in str(refused.value)


# cloud-hypervisor -----------------------------------------------------------------------------------------------------


def test_cloud_hypervisor_reads_everything_that_is_measured():
    found = cloud(
        "cloud-hypervisor", "--cpus", "boot=4,max=4,affinity=[0@[1,2]]", "--memory", "size=1G,shared=on", "--kernel", "K", "--initramfs",
        "I",
        "--cmdline", "quiet", "--platform", "arm_rme=on,measurement_algo=sha256,personalization_value=AQID", "--serial", "off", "-vv",
    )  # fmt: skip
    assert (found.topology.count, found.ram_size, found.images) == (4, GIB, {"kernel", "initrd"})
    assert (found.bootargs, found.hash_algorithm, found.serial) == ("quiet", HashAlgorithm.SHA256, False)
    assert found.rpv == bytes([1, 2, 3]).ljust(64, b"\0")
    assert set(found.ignored) == {"--cpus affinity", "--memory shared", "--platform arm_rme", "-v"}


def test_cloud_hypervisor_has_defaults_of_its_own():
    found = cloud()
    assert (found.topology.count, found.ram_size, found.serial, found.bootargs) == (1, 512 * MIB, True, None)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--firmware", "f"], "--firmware: where"),
        (["--memory", "size=512"], "counts bytes"),
        (["--memory", "512M"], "--memory: '512M' has no ="),
        (["--cpus", "boot=1,max=2"], "hotplug"),
        (["--cpus", "boot=1,flux=2"], "--cpus: flux"),
        (["--platform", "flux=1"], "--platform: flux"),
        (["--flux"], "--flux: is not an option"),
    ],
)
def test_cloud_hypervisor_refuses_and_names_the_option(arguments, words):
    with pytest.raises(InvalidDocument) as refused:
        cloud(*arguments)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    "arguments", [["--tpm", "x"], ["--numa", "x"], ["--cpus", "boot=1,topology=1:1:1:1"], ["--memory", "hotplug_size=1G"]]
)
def test_cloud_hypervisors_tree_changes_are_kept_apart(arguments):
    assert len(cloud(*arguments).tree_changes) == 1


some_words = st.one_of(st.text(max_size=12), st.sampled_from(["-m", "-smp", "-M", "-object", "--cpus", "-c", "-n", "1", "1G", "{", "=,="]))


@given(st.sampled_from(VMMS), st.lists(some_words, max_size=8))
def test_any_arguments_are_defined_or_refused(vmm, arguments):
    try:
        outcome = parse_arguments(vmm, arguments).vmm
    except InvalidDocument as error:
        outcome = error.finding_id
    assert outcome in (vmm, "document.vm-arguments")
