"""cloud-hypervisor's JSON says the same as its command line; command lines as text; the files that a command line names."""

import json
import shlex
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbs_rim.errors import InvalidDocument
from kbs_rim.measurement.vmm.arguments import parse_arguments
from kbs_rim.measurement.vmm.cloud_hypervisor_json import cloud_hypervisor_arguments
from kbs_rim.measurement.vmm.command_text import command_words, unexpanded
from kbs_rim.measurement.vmm.definition import VmDefinition
from kbs_rim.measurement.vmm.named_files import named_files

PAYLOAD = {"kernel": "Image", "initramfs": "initrd", "cmdline": "console=hvc0"}
CONFIG = {
    "cpus": {"boot_vcpus": 4, "max_vcpus": 4},
    "memory": {"size": 1 << 30},
    "payload": PAYLOAD,
    "serial": {"mode": "Off"},
    "platform": {"measurement_algo": "sha512", "personalization_value": "AQID", "num_pci_segments": 1},
}
LINE = (
    "cloud-hypervisor --cpus boot=4 --memory size=1G --kernel Image --initramfs initrd --cmdline console=hvc0 --serial off "
    "--platform measurement_algo=sha512,personalization_value=AQID"
)


def defined(document: dict) -> VmDefinition:
    return parse_arguments("cloud-hypervisor", cloud_hypervisor_arguments(json.dumps(document).encode()))


def refusal(document) -> str:
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    with pytest.raises(InvalidDocument) as caught:
        cloud_hypervisor_arguments(data)
    assert caught.value.finding_id == "document.vm-definition"
    return caught.value.message


def test_the_json_and_the_command_line_define_the_same_vm():
    assert defined(CONFIG) == parse_arguments("cloud-hypervisor", shlex.split(LINE))


def test_defaults_of_the_json_are_one_cpu_and_half_a_gibibyte():
    vm = defined({"payload": {"kernel": "Image"}, "disks": None, "numa": []})
    assert (vm.topology.count, vm.ram_size, vm.serial, vm.tree_changes) == (1, 512 << 20, True, ())


def test_what_ch_remote_prints_has_the_configuration_inside():
    assert defined({"config": CONFIG, "state": "Running", "memory_actual_size": 1 << 30}) == defined(CONFIG)


def test_older_versions_have_kernel_and_cmdline_beside_the_cpus():
    older = {**CONFIG, "kernel": {"path": "Image"}, "initramfs": {"path": "initrd"}, "cmdline": {"args": "console=hvc0"}}
    del older["payload"]
    assert defined(older) == defined(CONFIG)


def test_devices_without_effect_are_passed_over_and_named():
    vm = defined({**CONFIG, "disks": [{"path": "a"}], "net": [{}], "pvpanic": True, "watchdog": False})
    assert vm.ignored == ("--disk", "--net", "--pvpanic")


@pytest.mark.parametrize(
    "part",
    [
        {"numa": [{}]}, {"pci_segments": [{}]}, {"tpm": {"socket": "s"}}, {"memory": {"size": 1 << 30, "zones": [{"id": "a"}]}},
        {"memory": {"size": 1 << 30, "hotplug_size": 1 << 30}}, {"platform": {"num_pci_segments": 2}},
        {"cpus": {"boot_vcpus": 4, "max_vcpus": 4, "topology": {"threads_per_core": 2}}},
    ],
)  # fmt: skip
def test_what_changes_the_device_tree_is_said(part):
    assert defined({**CONFIG, **part}).tree_changes


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (b"{", "not"),
        (b'{"cpus": {}, "cpus": {}}', "twice"),
        (b"[]", "is no object"),
        (b"\xff", "not Unicode"),
        ({"cpus": 2}, "cpus: is no object"),
        ({"cpus": {"boot_vcpus": -1}}, "no whole number"),
        ({"cpus": {"boot_vcpus": True}}, "no whole number"),
        ({"cpus": {"nr": 2}}, "cpus.nr"),
        ({"quantum": 1}, "quantum: is not a member"),
        ({"payload": {"igvm": "a.igvm"}}, "workload from igvm"),
        ({"payload": {"kernel": 3}}, "payload.kernel: is no text"),
        ({"platform": {"tdx": True}}, "another kind of confidential guest"),
        ({"platform": {"measurement_algo": "sha512,tdx=on"}}, "characters"),
        ({"iommu": True}, "not modelled"),
        ({"serial": {"mode": "Loud"}}, "is one of"),
        ({"pvpanic": 1}, "neither true nor false"),
        ({"gdb": True}, "no realm is debugged"),
    ],
)
def test_json_that_is_wrong_is_refused_by_its_member(document, words):
    assert words in refusal(document)


@given(st.dictionaries(st.sampled_from([*CONFIG, "kernel", "disks", "x"]), st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8), lambda inner: st.lists(inner, max_size=2) | st.dictionaries(
        st.sampled_from(["boot_vcpus", "size", "kernel", "mode", "topology"]), inner, max_size=3), max_leaves=6), max_size=4))  # fmt: skip
def test_any_json_gives_arguments_or_is_refused(document):
    with suppress(InvalidDocument):
        assert all(isinstance(word, str) for word in cloud_hypervisor_arguments(json.dumps(document).encode()))


# --- text -------------------------------------------------------------------------------------------------------------


@given(st.lists(st.text(alphabet=st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1, max_size=20), min_size=1, max_size=8))
def test_quoted_words_come_back(words):
    words = ["qemu-system-aarch64", *words]
    quoted = " ".join("'" + word.replace("'", "'\"'\"'") + "'" for word in words)
    if not any(set(word) <= set("();<>|&") for word in words):
        assert command_words(quoted) == tuple(words)
    assert command_words("\0".join(words) + "\0") == tuple(words)


def test_a_script_is_read_as_a_shell_would():
    text = "# starts it\nsudo FOO='a b' exec qemu-system-aarch64 \\\n  -append \"root=/dev/vda ro#1\" \\\n  -m 1G\n"
    assert command_words(text) == ("qemu-system-aarch64", "-append", "root=/dev/vda ro#1", "-m", "1G")
    assert unexpanded(("-m", "$RAM", "`id`")) == ("$RAM", "`id`")


@pytest.mark.parametrize("text", ["qemu | tee log", "qemu && rm x", "qemu > log", "qemu; x", "qemu 'open", "", "A=1 sudo", "x" * 300_000])
def test_what_is_no_single_command_is_refused(text):
    with pytest.raises(InvalidDocument, match="command line"):
        command_words(text)


@pytest.mark.parametrize(
    ("vmm", "line", "files"),
    [
        ("qemu", "-kernel a -M virt,initrd=b -dtb d -kernel e", {"kernel": "e", "initrd": "b", "device-tree": "d"}),
        ("qemu", "-bios c -M firmware=f", {"firmware": "f"}),
        ("kvmtool", "run -k a --initrd=b --dtb c", {"kernel": "a", "initrd": "b", "device-tree": "c"}),
        ("cloud-hypervisor", "--kernel a --initramfs b", {"kernel": "a", "initrd": "b"}),
    ],
)  # fmt: skip
def test_files_are_named_by_role(vmm, line, files):
    assert named_files(vmm, line.split()) == files
