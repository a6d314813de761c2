"""``kbs-rim measure`` against every command line of the reference tool, and what it says of command lines that are wrong."""

import base64
import hashlib
import json
from pathlib import Path

import pytest

from kbs_rim.cli import main
from kbs_rim.measurement.device_tree import facts_of, parse_device_tree

VECTORS = Path(__file__).parent.parent / "vectors" / "vmm"
IMAGES = VECTORS / "images"
DOCUMENTS = [json.loads((VECTORS / name).read_text()) for name in ("vmm-cases-public.json", "vmm-extra-public.json")]
CASES = {case["id"]: case for document in DOCUMENTS for case in document["cases"]}
GOOD = [case for case in CASES.values() if case["expected"]["exit"] == "success"]
HOST = ("--num-bps", "6", "--num-wps", "6")
KVMTOOL = ("--realm", "-c", "1", "-m", "512M")
SMALL = "998dfdf6401d69f73ed88ac53d62d5ea2cfac6320b887ce4599aa8671791d4d0"


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["measure", *arguments])
    out, err = capsys.readouterr()
    return ended.value.code, out, err


def measured(capsys, *arguments: str) -> dict:
    code, out, err = run(capsys, *arguments)
    assert code == 0, err
    return json.loads(out)


def line_of(case: dict, folder: Path) -> list[str]:
    """The tool's options and the VMM's arguments of a case, with our ``--`` between them."""
    options = [part for name in case.get("configs") or () for part in ("-c", name)]
    for argument in case["tool_args"]:
        for name, path in {"{images}": IMAGES, "{out}": folder, "{dtb:C27}": VECTORS / "dtb-public" / "C27-qemu.dtb"}.items():
            argument = argument.replace(name, str(path))
        options.append(argument)
    return [*options, "--", *case["vmm_args"]]


def differences(case: dict, document: dict) -> set[str]:
    expected = case["expected"]
    names = {
        "rim_hex": "rim", "dtb_size": "dtb_size", "dtb_sha256": "dtb_sha256", "rim_operations": "operations",
        "measured_params": "parameters",
    }  # fmt: skip
    return {ours for theirs, ours in names.items() if theirs in expected and expected[theirs] != document[ours]}


@pytest.mark.parametrize("case", [case for case in GOOD if "reference_quirk" not in case], ids=lambda case: case["id"])
def test_a_command_line_of_the_reference_gives_its_rim_tree_and_operations(capsys, tmp_path, case):
    document = measured(capsys, case["vmm"], "--json", *line_of(case, tmp_path))
    assert differences(case, document) == set()
    assert len(document["rim"]) == 2 * {"sha256": 32, "sha384": 48, "sha512": 64}[document["hash_algorithm"]]


@pytest.mark.parametrize("case", [case for case in GOOD if "reference_quirk" not in case], ids=lambda case: case["id"])
def test_a_command_line_of_the_reference_works_as_it_is(capsys, tmp_path, case):
    """Its options, the VMM's name, the VMM's arguments; no -- anywhere, and -k=FILE is -k FILE."""
    options = line_of(case, tmp_path)[: -len(case["vmm_args"]) - 1]
    signs = [f"{option}={value}" if option in ("-k", "-i", "-f", "-c") else [option, value] for option, value in pairs_of(options)]
    words = [word for part in signs for word in ([part] if isinstance(part, str) else part)]
    document = measured(capsys, "--json", *words, case["vmm"], *case["vmm_args"])
    assert differences(case, document) == set()


def pairs_of(options: list[str]) -> list[tuple[str, str]]:
    flags = [word for word in options if word == "--print-b64"]
    rest = [word for word in options if word not in flags]
    return list(zip(rest[::2], rest[1::2], strict=True))


def test_a_bug_of_the_reference_is_not_repeated_too_few_ipa_bits(capsys, tmp_path):
    """4 GiB from 2 GiB on end at 6 GiB, which 32 bits do not reach: the realm needs 33 for its half, and one more."""
    case = CASES["X031"]
    document = measured(capsys, "kvmtool", "--json", *line_of(case, tmp_path))
    assert differences(case, document) == {"rim", "parameters"}
    assert document["parameters"] == {**case["expected"]["measured_params"], "ipa_bits": 34}


def test_a_bug_of_the_reference_is_not_repeated_a_network_device_too_many(capsys, tmp_path):
    """kvmtool makes a device by itself only where no -n is given."""
    case = CASES["X033"]
    document = measured(capsys, "kvmtool", "--json", *line_of(case, tmp_path))
    assert differences(case, document) == {"rim", "dtb_sha256"}
    main_line = line_of(case, tmp_path)
    alone = main_line[: main_line.index("-n")]
    assert measured(capsys, "kvmtool", "--json", *alone)["rim"] == document["rim"]


QEMU_HOST = (*HOST, "--ipa-bits", "52", "--pmu-num-ctrs", "6")
QEMU_IMAGES = ("-f", str(IMAGES / "firmware.bin"), "-k", str(IMAGES / "linux.bin"), "-i", str(IMAGES / "initrd.bin"))
QEMU_GUEST = (
    "-M", "confidential-guest-support=rme0", "-object", "rme-guest,id=rme0,measurement-algorithm=sha256", "-cpu", "host", "-M", "virt",
    "-enable-kvm", "-smp", "2", "-m", "1G", "-nographic",
)  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "rim"),
    [
        (["kvmtool", *HOST, "-f", str(IMAGES / "firmware.bin"), "--", "--realm", "--firmware", "f", "-c", "1", "-m", "512M"],
         "cf37146fce0ad50e1be1a04580c1024e5449b430b0dd96b6ef5c9a2b73767bf5"),
        (["kvmtool", *HOST, "--", *KVMTOOL, "--debug", "--debug-single-step", "--debug-mmio", "--force-pci", "--no-pvtime",
          "--vcpu-affinity", "AFF", "--disable-mte"], SMALL),
        (["qemu", *QEMU_HOST], "cf409055d866eea6c8d5e7862b540ff1cac9b11f125d088587d5ae97a0e33416"),
        (["qemu", *QEMU_HOST, "--", "-cpu", "pmu=on"], "8120ef921a987a3f8b9d4bb5e40f8489e2b4fc69c5e1b17b1a9b040884a1211d"),
        (["qemu", *QEMU_HOST, "--", "-cpu", "pmu=on,num-pmu-counters=2"], "ef4e6f78ea9630f66146b33a405a07b669ef94dd9aca6935d4fd23fea"),
        (["qemu", *QEMU_HOST, *QEMU_IMAGES, "--", *QEMU_GUEST, "-bios", "f", "-kernel", "k"],
         "cbf533a94009dfa6b83016a89b428d1d910fb3593856bb386d7b2bd07a1bc834"),
        (["qemu", *QEMU_HOST, *QEMU_IMAGES, "--", *QEMU_GUEST, "-bios", "f", "-kernel", "k", "-append", "root=/dev/vda2"],
         "fd3ce1072c3e95cd3a4d1a07729756564f260f9f7e95014418b416673a268b7a"),
        (["qemu", *QEMU_HOST, *QEMU_IMAGES, "--", *QEMU_GUEST, "-kernel", "k", "-initrd", "i"],
         "9af47a8e4d6ac775e05f8a8893f9e383694688719d1bbb4281ed1c25056e0911"),
        (["qemu", *QEMU_HOST, *QEMU_IMAGES, "--", *QEMU_GUEST, "-kernel", "k", "-initrd", "i", "-append", "root=/dev/vda2"],
         "22d398e695e776385bc268454587b418dde16e34bc69d9a24fc96abb3050a24e"),
    ],
)  # fmt: skip
def test_what_the_references_own_tests_expect(capsys, arguments, rim):
    """tests/cmdline.rs of veraison/cca-realm-measurements; of SHA-512 the first half."""
    assert measured(capsys, arguments[0], "--json", *arguments[1:])["rim"].startswith(rim)


SCRIPT = {
    "kvmtool": "--console virtio --realm --restricted_mem --sve-max-vl=512 -c 2 -m 1G -k Image --virtio-transport pci --irqchip=gicv3-its "
    "--pmu --network mode=user --debug --dtb kvmtool-gen.dtb -i initrd -p console=hvc0",
    "cloud-hv": "--platform arm_rme=on,measurement_algo=sha512,personalization_value=AQID --console tty --serial off --kernel Image "
    "--initramfs initrd --cpus boot=2 --memory size=1G --net fd=3,mac= -v --dtb cloudhv-gen.dtb --cmdline console=hvc0",
    "qemu": "-M confidential-guest-support=rme0 -object rme-guest,id=rme0,measurement-algorithm=sha512,personalization-value=AQID,"
    "measurement-log=on -nodefaults -chardev stdio,mux=on,id=chr0,signal=off -serial chardev:chr0 -device virtio-serial-pci -device "
    "virtconsole,chardev=chr0 -mon chardev=chr0,mode=readline -device virtio-net-pci,netdev=net0,romfile= -netdev user,id=net0 -cpu host "
    "-M virt -enable-kvm -M gic-version=3,its=on -smp 2 -m 1G -nographic -dtb qemu-gen.dtb -kernel Image -initrd initrd "
    "-append console=hvc0",
}


@pytest.mark.parametrize("vmm", SCRIPT)
def test_the_command_lines_of_the_references_helper_script_are_understood(capsys, vmm):
    """gen-run-vmm.sh puts the tool's options in front of the VMM, and names a firmware that is used only sometimes."""
    before = ("-c", "qemu-max-8.2", "-c", "kvm", *QEMU_IMAGES[2:], "-f", "nowhere", "--json")
    code, out, err = run(capsys, *before, vmm, "--", *SCRIPT[vmm].split())
    document = json.loads(out)
    assert (code, document["parameters"]["num_wps"], document["parameters"]["lpa2"]) == (0, 4, False)
    assert [image["role"] for image in document["layout"]["images"] if image["role"] != "device-tree"] == ["kernel", "initrd"]
    assert "--firmware is not used" in err
    assert document["remarks"] == []


def test_every_quirk_has_its_test():
    assert {case["id"] for case in GOOD if "reference_quirk" in case} == {"X031", "X033"}


@pytest.mark.parametrize("case", [case for case in CASES.values() if case["expected"]["exit"] == "failure"], ids=lambda case: case["id"])
def test_what_the_reference_refuses_is_refused(capsys, tmp_path, case):
    code, out, err = run(capsys, case["vmm"], *line_of(case, tmp_path))
    assert (code, out) == (2 if case["id"] == "C03" else 64, "")
    word = {"C03": "nonexistent-file", "C04": "-c", "C06": "--num-bps", "C12": "gic-version", "C29": "--input-dtb"}[case["id"]]
    assert word in err


def test_text_is_five_lines(capsys):
    code, out, err = run(capsys, "kvmtool", *HOST, "--", *KVMTOOL, "--dtb", "t")
    half, zero = "0" * 64, "0" * 128
    assert (code, err) == (0, "")
    assert out == f"RIM: {SMALL}{half}\nREM0: {zero}\nREM1: {zero}\nREM2: {zero}\nREM3: {zero}\n"


def test_base64_is_of_the_same_bytes(capsys):
    _, out, _ = run(capsys, "kvmtool", *HOST, "--print-b64", "--", *KVMTOOL)
    assert out.splitlines()[0] == f"RIM: {base64.b64encode(bytes.fromhex(SMALL) + bytes(32)).decode()}"


@pytest.mark.parametrize(
    ("algorithm", "rmm", "rim"),
    [
        ("sha256", "2.0", ("f0c1512eb2e22626272fb81876695e63d1b06285e8a6281c58f34a2149789c53",)),
        ("sha384", "2.0", ("2d1ca7dece3add015f7e5c3b11e93dd5db031c095f436b16b405b91069350fe1", "da8f3f6bcbb1028f36b303710146c10a")),
        ("sha512", "1.0", ("3da6897c406c30b96b86fce04a015094794b4e7ee66838f6a52d9dab1edea53a",
                           "465819f6041fc990ab863b5b56d099cb1c34a83eaf1324d2b34361a09bc408dd")),
        ("sha512", "2.0", ("e62936c34fe02db251cf9f5dd555d541ac5c3252b9b3da8a13dc177f40ff3e00",
                           "1b045d9b81c9c73ec727d5887a990ec026f6d92233d97a0bd74d048c4e66adfc")),
    ],
)  # fmt: skip
def test_hashes_and_rmm_versions(capsys, algorithm, rmm, rim):
    document = measured(capsys, "kvmtool", *HOST, "--rmm", rmm, "--json", "--", *KVMTOOL, "--measurement-algo", algorithm)
    assert document["rim"] == "".join(rim)
    by_host = measured(capsys, "kvmtool", *HOST, "--rmm", rmm, "--json", "--hash-algo", algorithm, "--", *KVMTOOL)
    assert by_host["rim"] == "".join(rim)


def test_rmm_1_0_has_no_sha384_and_no_memory_policy(capsys):
    for more, word in ((["--hash-algo", "sha384"], "SHA-384"), (["--memory-private"], "memory encryption")):
        code, _, err = run(capsys, "kvmtool", *HOST, *more, "--", *KVMTOOL)
        assert code == 1
        assert word in err


def test_flags_of_rmm_2_0_change_the_rim(capsys):
    base = ("kvmtool", *HOST, "--rmm", "2.0", "--json")
    documents = [measured(capsys, *base, *more, "--", *KVMTOOL) for more in ([], ["--memory-private"], ["--device-assignment"])]
    assert [document["realm_create"]["flags"] for document in documents] == ["0x0", "0x80", "0x8"]
    assert len({document["rim"] for document in documents}) == 3


def test_explain_ends_at_the_rim(capsys):
    arguments = ("kvmtool", *HOST, "-i", str(IMAGES / "initrd.bin"), "--json", "--explain", "--", *KVMTOOL, "-i", "i", "--measurement-log")
    ranges = measured(capsys, *arguments)
    each = measured(capsys, *("--explain-all" if word == "--explain" else word for word in arguments))
    assert ranges["steps"][-1]["rim"] == each["steps"][-1]["rim"] == ranges["rim"] == each["rim"]
    assert sum(step["extensions"] for step in ranges["steps"]) == len(each["steps"])
    assert [step["operation"].split()[0] for step in ranges["steps"]] == [
        "realm_create", "init_ripas", "data_measured", "data_measured", "rec_create", "data_unmeasured",
    ]  # fmt: skip
    assert all(step["extensions"] == 1 for step in each["steps"])
    _, out, _ = run(capsys, *(word for word in arguments if word != "--json"))
    assert out.splitlines()[5].startswith(ranges["steps"][5]["rim"])
    assert f"RIM: {ranges['rim']}" in out


def test_under_rmm_2_0_ram_extends_nothing(capsys):
    document = measured(capsys, "kvmtool", *HOST, "--rmm", "2.0", "--json", "--explain", "--", *KVMTOOL)
    assert document["steps"][1]["operation"].startswith("init_ripas")
    assert document["steps"][1]["extensions"] == 0
    assert document["steps"][1]["rim"] == document["steps"][0]["rim"]


def test_firmware_measures_kernel_then_initrd_into_rem0(capsys):
    files = ("-f", str(IMAGES / "firmware.bin"), "-k", str(IMAGES / "linux.bin.gz"), "-i", str(IMAGES / "initrd.bin"))
    arguments = ("-bios", "f", "-kernel", "k", "-initrd", "i", "-object", "rme-guest,measurement-algorithm=sha256")
    document = measured(capsys, "qemu", "-c", "fvp", *files, "--json", "--", *arguments)
    kernel, initrd = (hashlib.sha256((IMAGES / name).read_bytes()).digest() for name in ("linux.bin", "initrd.bin"))
    first = hashlib.sha256(bytes(32) + kernel).digest()
    assert document["rem"] == [hashlib.sha256(first + initrd).hexdigest(), *["00" * 32] * 3]
    assert document["layout"]["extended_into_rem0"] == ["kernel", "initrd"]
    alone = measured(capsys, "qemu", "-c", "fvp", *files, "--json", "--", "-bios", "f", *arguments[-2:])
    assert alone["rem"] == ["00" * 32] * 4


def test_the_tree_is_written_and_measured_again(capsys, tmp_path):
    tree = tmp_path / "realm.dtb"
    first = measured(capsys, "qemu", "-c", "fvp", "--output-dtb", str(tree), "--json", "--", "-smp", "3")
    assert hashlib.sha256(tree.read_bytes()).hexdigest() == first["dtb_sha256"]
    assert facts_of(parse_device_tree(tree.read_bytes())).cpus == 3
    code, out, err = run(capsys, "qemu", "-c", "fvp", "--dtb", str(tree), "--json", "--", "-smp", "8", "-numa", "node")
    assert (code, json.loads(out)["rim"]) == (0, first["rim"])
    assert "--dtb: CPUs: the tree has 3, the VM 8" in err
    _, _, err = run(capsys, "qemu", "-c", "fvp", "--dtb", str(tree), "--json", "--", "-smp", "3", "-m", "1G")
    assert "--dtb: memory: the tree has 0x40000000, 0x8000000, the VM 0x40000000, 0x40000000" in err


def test_kvmtool_loads_64_kib_of_a_shorter_tree(capsys, tmp_path):
    whole, cut = tmp_path / "whole.dtb", tmp_path / "cut.dtb"
    first = measured(capsys, "kvmtool", *HOST, "--output-dtb", str(whole), "--json", "--", *KVMTOOL)
    data = whole.read_bytes()
    cut.write_bytes(data[: int.from_bytes(data[4:8], "big")])
    code, out, err = run(capsys, "kvmtool", *HOST, "--dtb", str(cut), "--json", "--", *KVMTOOL)
    assert (code, json.loads(out)["rim"]) == (0, first["rim"])
    assert "65536" in err


def test_no_measurements_hash_nothing_but_make_the_tree(capsys, tmp_path):
    tree = tmp_path / "realm.dtb"
    code, out, _ = run(capsys, "kvmtool", *HOST, "--no-measurements", "--output-dtb", str(tree), "--", *KVMTOOL)
    assert (code, out) == (0, "")
    document = measured(capsys, "kvmtool", *HOST, "--no-measurements", "--json", "--", *KVMTOOL)
    assert "rim" not in document
    assert hashlib.sha256(tree.read_bytes()).hexdigest() == document["dtb_sha256"]


def test_options_may_stand_before_the_vmm(capsys, tmp_path):
    host = tmp_path / "my host.toml"
    host.write_text('num_bps = 9\nhash_algo = "RmiHashSha512"\n')
    inside = measured(
        capsys, "cloud-hypervisor", "-c", "fvp", "-c", str(host), "-k", str(IMAGES / "linux.bin"), "--json", "--", "--kernel", "k"
    )
    outside = measured(capsys, "-c", "fvp", "-k", str(IMAGES / "linux.bin"), "--json", "cloud-hv", "-c", str(host), "--", "--kernel", "k")
    assert inside == outside
    assert inside["parameters"]["num_bps"] == 9


def test_the_options_behind_the_vmm_win(capsys):
    document = measured(capsys, "-c", "fvp", "--sve-vl", "1024", "--pmu", "true", "qemu", "--sve-vl", "0", "--pmu", "false", "--json")
    assert (document["parameters"]["sve_vl"], document["parameters"]["pmu"]) == (0, False)


def test_a_profile_is_another_flow(capsys):
    files = ("-k", str(IMAGES / "linux.bin"), "-c", "fvp", "--json")
    now = measured(capsys, "kvmtool", *files, "--", *KVMTOOL, "-k", "k")
    then = measured(capsys, "kvmtool", *files, "--profile", "kvmtool-eac5", "--", *KVMTOOL, "-k", "k")
    assert then["operations"] == [
        "data_measured 0x80000000 0x80001000", "init_ripas 0x80001000 0x82d10000", "data_measured 0x8fe00000 0x8fe10000", "rec_create",
    ]  # fmt: skip
    assert then["rim"] != now["rim"]
    assert then["dtb_sha256"] == now["dtb_sha256"]
    assert (now["parameters"]["sve_vl"], then["parameters"]["sve_vl"]) == (512, 0)
    code, _, err = run(capsys, "kvmtool", *files, "--profile", "kvmtool-eac5", "--", *KVMTOOL, "-k", "k", "--measurement-log")
    assert (code, "measurement log" in err) == (1, True)


def test_a_vmm_that_makes_its_own_tree_is_told_of(capsys):
    for vmm, arguments, told in (("kvmtool", KVMTOOL, True), ("kvmtool", (*KVMTOOL, "--dtb", "t"), False), ("qemu", (), True)):
        _, _, err = run(capsys, vmm, "-c", "fvp", "--", *arguments)
        assert (f"{vmm} is not told to load a device tree" in err) is told


def test_a_tree_that_qemu_makes_itself_may_be_measured(capsys, tmp_path):
    tree, arguments = tmp_path / "stock.dtb", ("-M", "virt,gic-version=3,dtb-randomness=off", "-cpu", "host", "-enable-kvm", "-smp", "2")
    made = [
        "dtb",
        "make",
        "qemu",
        "--qemu-version",
        "10.0.13",
        "--host-pmu",
        "--host-address-bits",
        "48",
        "-o",
        str(tree),
        "--",
        *arguments,
    ]
    with pytest.raises(SystemExit) as ended:
        main(made)
    assert ended.value.code == 0
    capsys.readouterr()
    code, out, err = run(capsys, "qemu", "-c", "fvp", "--dtb", str(tree), "--json", "--", *arguments)
    assert (code, json.loads(out)["dtb_size"]) == (0, 1 << 20)
    assert "--dtb" not in err


def test_a_host_with_larger_pages_measures_zeros_around_images(capsys):
    arguments = ("-c", "fvp", "-i", str(IMAGES / "initrd.bin"), "--json")
    small, large = (measured(capsys, "kvmtool", *arguments, *more, "--", *KVMTOOL, "-i", "i") for more in ([], ["--host-page", "64k"]))
    assert small["operations"][1] == "data_measured 0x8fdff000 0x8fe00000"
    assert large["operations"][1] == "data_measured 0x8fdf0000 0x8fe00000"
    assert small["rim"] != large["rim"]


def test_images_that_share_a_page_of_the_host_are_refused(capsys):
    files = ("-k", str(IMAGES / "linux.bin"), "-f", str(IMAGES / "firmware.bin"), "-c", "fvp")
    arguments = (*KVMTOOL, "-kk", "-ff", "--firmware-address", "0x80001000")
    assert run(capsys, "kvmtool", *files, "--", *arguments)[0] == 0
    code, _, err = run(capsys, "kvmtool", *files, "--host-page", "16k", "--", *arguments)
    assert (code, "kernel and firmware share a page of the host" in err) == (1, True)


def test_a_newer_kernel_makes_ram_last(capsys):
    arguments = ("-c", "fvp", "-k", str(IMAGES / "linux.bin"), "--profile", "qemu-virt-kvm12", "--json", "--", "-kernel", "k")
    assert measured(capsys, "qemu", *arguments)["operations"] == [
        "data_measured 0x40000000 0x40001000", "data_measured 0x44000000 0x44002000", "rec_create",
        "init_ripas 0x40001000 0x44000000", "init_ripas 0x44002000 0x48000000",
    ]  # fmt: skip


def test_what_is_ignored_is_said_unless_quiet(capsys):
    arguments = ("-c", "fvp", "--", "-nographic", "-netdev", "user,id=n", "-object", "rme-guest,id=r", "-dtb", "t")
    _, loud, err = run(capsys, "qemu", *arguments)
    assert err == "kbs-rim: ignored, because they cannot change a measurement: -nographic, -netdev\n"
    _, out, err = run(capsys, "qemu", "-q", *arguments)
    assert (out, err) == (loud, "")


def test_more_than_the_host_has_is_said(capsys):
    code, _, err = run(capsys, "qemu", "-c", "rmm-1.0-eac5", "-c", "qemu-max-8.2", "--", "-cpu", "host,num-breakpoints=4", *("-dtb", "t"))
    assert code == 0
    assert "num_bps: the VM asks for 4, the host has 2" in err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["qemu", "-M", "virt"], 64, "stands behind --"),
        (["qemu", "--", "-frobnicate"], 64, "-frobnicate: is not an option"),
        (["qemu", "-c", "fvp", "--", "-kernel", "k"], 64, "--kernel FILE"),
        (["qemu", "-c", "fvp", "--", "-cpu", "cortex-a57"], 64, "write host"),
        (["qemu", "-c", "fvp", "--", "-cpu", "host,sve128=off"], 64, "sve=off"),
        (["qemu", "-c", "fvp", "--", "-numa", "node"], 64, "--dtb"),
        (["qemu", "-c", "nowhere", "--", "-m", "1G"], 2, "neither a file nor one of"),
        (["qemu", "-c", "fvp", "--ipa-bits", "40", "--"], 1, "needs 41 IPA bits"),
        (["qemu", "--num-bps", "1", "--"], 64, "--num-bps"),
        (["qemu", "--sve-vl", "100", "--"], 64, "sve_vl"),
        (["qemu", *HOST, "--pmu", "true", "--"], 64, "--pmu-num-ctrs"),
        (["qemu", "-c", "fvp", "--dtb", "a", "--dtb-template", "b", "--"], 64, "give one of them"),
        (["qemu", "-c", "fvp", "--profile", "kvmtool", "--"], 64, "not of qemu"),
        (["cloud-hypervisor", "-c", "fvp", "--dtb-template", str(VECTORS / "dtb-public" / "C27-qemu.dtb"), "--"], 1, "no template"),
        (["qemu", "-c", "fvp", "--dtb", str(IMAGES / "some-file.txt"), "--"], 1, "tree.malformed"),
        (["qemu", "-c", "fvp", "-k", str(IMAGES / "some-file.txt"), "--", "-kernel", "k"], 1, "image.kernel"),
        (["qemu", "-c", "fvp", "-k", str(IMAGES / "randombytes.bin"), "--", "-kernel", "k"], 1, "image.kernel"),
        (["qemu", "-c", "fvp", "-k", str(IMAGES / "randombytes.bin.gz"), "--", "-kernel", "k"], 1, "image.kernel"),
        (["kvmtool", "-c", "fvp", "-k", str(IMAGES / "linux.bin"), "-f", str(IMAGES / "firmware.bin"), "--", *KVMTOOL, "-kk", "-ff"],
         1, "--firmware-address"),
        (["bhyve", "--"], 64, "bhyve"),
    ],
)  # fmt: skip
def test_an_error_says_what_to_do(capsys, arguments, code, words):
    found, out, err = run(capsys, *arguments)
    assert (found, out) == (code, "")
    assert words in err


def test_an_empty_or_a_cut_image_is_refused(capsys, tmp_path):
    empty, cut = tmp_path / "empty", tmp_path / "cut.gz"
    empty.touch()
    cut.write_bytes((IMAGES / "linux.bin.gz").read_bytes()[:-12])
    for path, word in ((empty, "image.empty"), (cut, "image.gzip")):
        code, _, err = run(capsys, "qemu", "-c", "fvp", "-k", str(path), "--", "-kernel", "k")
        assert (code, word in err) == (1, True)


def test_an_efi_zboot_kernel_is_named_as_one(capsys, tmp_path):
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(b"MZ\0\0zimg" + bytes(200))
    code, _, err = run(capsys, "qemu", "-c", "fvp", "-k", str(kernel), "--", "-kernel", "k")
    assert (code, "EFI zboot" in err) == (1, True)


@pytest.mark.parametrize(
    "arguments",
    [["--endorsements-template", "t"], ["--no-measurements", "--corim", "c"], ["--no-measurements", "--explain"]],
)
def test_options_that_belong_together(capsys, arguments):
    assert run(capsys, "kvmtool", *HOST, *arguments, "--", *KVMTOOL)[0] == 64
