"""libvirt's XML against what libvirt 12.8 itself makes of it, the dialects for realms, and XML that is an attack."""

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbs_rim.errors import InvalidDocument
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.measurement.vmm.definition import VmDefinition
from kbs_rim.measurement.vmm.libvirt_domain import read_libvirt_domain
from kbs_rim.measurement.vmm.libvirt_xml import parse_xml
from kbs_rim.measurement.vmm.qemu_arguments import parse_qemu_arguments
from kbs_rim.measurement.vmm.stock_qemu_arguments import read_stock_arguments

CASES = json.loads((Path(__file__).parent.parent / "vectors" / "images" / "libvirt-argv.json").read_text())["cases"]
BY_NAME = {case["name"]: case for case in CASES}
STARTED = [case for case in CASES if case["argv"] is not None]
EMULATOR = (11, 1)
READ = (
    "-machine", "-accel", "-cpu", "-bios", "-m", "-smp", "-numa", "-kernel", "-initrd", "-append", "-dtb", "-serial", "-object",
)  # fmt: skip
LIBVIRTS_OWN = ("masterKey0", "monitor-qmp")
XMLNS = "xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'"
BASE = BY_NAME["base"]["xml"]


def told(argv: list[str]) -> list[str]:
    """The options that can say anything about a realm, with their values, in libvirt's order."""
    pairs = [(word, argv[at + 1]) for at, word in enumerate(argv) if word in READ]
    return [part for pair in pairs for part in pair if not any(own in pair[1] for own in LIBVIRTS_OWN)]


def outcome(reader, arguments) -> object:
    """What a parser makes of arguments, or what it objects to; which options were passed over does not count."""
    try:
        return replace(reader(arguments), ignored=())
    except InvalidDocument as error:
        return error.message


def changed(*replacements: tuple[str, str], xml: str = BASE) -> bytes:
    for old, new in replacements:
        assert old in xml, old
        xml = xml.replace(old, new)
    return xml.encode()


def realm(xml: bytes) -> VmDefinition:
    return parse_qemu_arguments(read_libvirt_domain(xml).arguments)


def with_security(element: str, *more: tuple[str, str]) -> bytes:
    return changed(("</devices>", f"</devices>{element}"), *more)


def refusal(xml: bytes) -> str:
    with pytest.raises(InvalidDocument) as caught:
        read_libvirt_domain(xml)
    assert caught.value.finding_id == "document.vm-definition"
    return caught.value.message


@pytest.mark.parametrize("case", STARTED, ids=lambda case: case["name"])
def test_the_arguments_are_those_of_libvirt_word_for_word(case):
    assert list(read_libvirt_domain(case["xml"].encode(), EMULATOR).arguments) == told(case["argv"])


@pytest.mark.parametrize("reader", [parse_qemu_arguments, read_stock_arguments])
@pytest.mark.parametrize("case", STARTED, ids=lambda case: case["name"])
def test_the_vm_is_that_of_libvirts_arguments(case, reader):
    ours = outcome(reader, read_libvirt_domain(case["xml"].encode(), EMULATOR).arguments)
    assert ours == outcome(reader, case["argv"])


def test_there_are_nineteen_definitions_and_libvirt_refuses_three():
    assert (len(CASES), len(STARTED)) == (19, 16)


def test_what_libvirt_refuses_is_refused_acpi_without_uefi():
    assert BY_NAME["acpi-without-firmware"]["error"]
    assert "needs UEFI" in refusal(BY_NAME["acpi-without-firmware"]["xml"].encode())


def test_where_libvirt_refuses_and_we_do_not_it_is_for_want_of_support():
    """libvirt 12.8 knows no launch security of that name, and its emulator on another architecture has no KVM."""
    assert "launchSecurity" in BY_NAME["launchsecurity-cca"]["error"][0]
    assert parse_qemu_arguments(read_libvirt_domain(BY_NAME["launchsecurity-cca"]["xml"].encode()).arguments).remarks == ()
    assert "virt type 'kvm'" in BY_NAME["kvm-host-passthrough"]["error"][0]
    assert realm(BY_NAME["kvm-host-passthrough"]["xml"].encode()).cpu_model == "host"


def test_the_machine_virt_is_the_newest_one_of_the_emulator():
    xml = BASE.encode()
    assert "virt-10.0,usb=off" in " ".join(read_libvirt_domain(xml, (10, 0)).arguments)
    assert "-machine virt,usb=off" in " ".join(read_libvirt_domain(xml).arguments)


RFC = (
    "<launchSecurity type='cca' measurement-log='yes'><measurement-algo>sha256</measurement-algo>"
    "<personalization-value>AQID</personalization-value></launchSecurity>"
)
OPENEULER = "<launchSecurity type='cca'><measurement-algo>sha512</measurement-algo><measurement-log state='off'/></launchSecurity>"


def test_launch_security_as_proposed_for_libvirt():
    vm = realm(with_security(RFC))
    assert (vm.hash_algorithm, vm.measurement_log, vm.rpv) == (HashAlgorithm.SHA256, True, b"\1\2\3".ljust(64, b"\0"))
    assert vm.remarks == ()


def test_launch_security_as_openeuler_documents_it_reads_its():
    vm = realm(with_security(OPENEULER, ("<gic version='3'/>", "<gic version='3' its='off'/>")))
    assert (vm.hash_algorithm, vm.measurement_log, vm.its) == (HashAlgorithm.SHA512, False, False)


def test_its_is_dropped_by_libvirt_and_said_so():
    domain = read_libvirt_domain(with_security(RFC, ("<gic version='3'/>", "<gic version='3' its='off'/>")))
    assert parse_qemu_arguments(domain.arguments).its is True
    assert any("libvirt drops the attribute" in remark for remark in domain.remarks)


def test_virtcca_brings_its_own_guest():
    arguments = "<commandline xmlns='http://libvirt.org/schemas/domain/qemu/1.0'>" + "".join(
        f"<arg value='{value}'/>"
        for value in (
            "-object", "tmm-guest,id=tmm0,sve-vector-length=256,num-pmu-counters=1", "-M", "kvm-type=cca,confidential-guest-support=tmm0",
        )
    ) + "</commandline>"  # fmt: skip
    xml = with_security("<launchSecurity type='cca' hisi-cca-enable='yes'/>" + arguments)
    vm = realm(xml)
    assert (vm.limits.sve_vl, vm.limits.pmu_num_ctrs) == (256, 1)
    assert any("virtCCA" in remark for remark in vm.remarks)
    assert "rme-guest" not in " ".join(read_libvirt_domain(xml).arguments)


def test_arguments_passed_through_come_last_and_win():
    words = "".join(f"<q:arg value='{value}'/>" for value in ("-object", "rme-guest,id=rme0", "-M", "its=off"))
    passed = f"<q:commandline>{words}</q:commandline>"
    xml = changed(
        ("<domain type='qemu'>", f"<domain type='qemu' {XMLNS}>"),
        ("</domain>", f"{passed}</domain>"),
    )
    vm = realm(xml)
    assert (vm.its, vm.remarks) == (False, ())


def test_an_element_called_commandline_in_another_namespace_is_no_arguments():
    xml = changed(("</domain>", "<commandline xmlns='http://example.org'><arg value='-object'/></commandline></domain>"))
    assert "-object" not in read_libvirt_domain(xml).arguments[-2:]


@pytest.mark.parametrize(
    ("replacements", "words"),
    [
        ([("type='qemu'", "type='xen'")], "neither kvm nor qemu"),
        ([("arch='aarch64'", "arch='x86_64'")], "aarch64"),
        ([("machine='virt'", "machine='virt,its=off'")], "machine is virt"),
        ([("<vcpu placement='static'>2<", "<vcpu placement='static'>0<")], "whole number from 1"),
        ([("<memory unit='MiB'>2048</memory>", "")], "<memory>: is missing"),
        ([("unit='MiB'>2048", "unit='miles'>2048")], "a number with a unit"),
        ([("<cpu mode='custom'>", "<cpu mode='host-model'>")], "host-passthrough"),
        ([("<model>cortex-a57</model>", "<model>max,pmu=off</model>")], "no name of a CPU"),
        ([("<gic version='3'/>", "<gic version='5'/>")], "not 2, 3, 4 or host"),
        ([("<kernel>", "<loader type='pflash'/><kernel>")], "takes a firmware of its host"),
        ([("<os>", "<os firmware='efi'>")], "takes a firmware of its host"),
        ([("</devices>", "</devices><launchSecurity type='sev'/>")], "not Arm CCA"),
        ([("</devices>", "</devices><launchSecurity type='cca' measurement-log='maybe'/>")], "yes or no"),
        ([("<model>cortex", "<topology sockets='1' cores='3' threads='1'/><model>cortex")], "makes 3 CPUs"),
        ([("<memballoon model='none'/>", "<iommu model='intel'/>")], "not one for 64-bit Arm"),
        ([("<memballoon model='none'/>", "<memory model='sgx-epc'/>")], "not known for 64-bit Arm"),
        ([("<kernel>", "<loader type='disk'>F</loader><kernel>")], "neither rom nor pflash"),
        ([("<gic version='3'/>", "<gic version='3' its='perhaps'/>")], "its is on or off"),
        ([("<gic version='3'/>", "<ras state='perhaps'/>")], "state is on or off"),
        ([("<gic version='3'/>", "<pmu state='perhaps'/>")], "state is on or off"),
        ([("<gic version='3'/>", "<pmu/>"), ("<cpu mode='custom'><model>cortex-a57</model></cpu>", "")], "needs a <cpu>"),
        ([("<cpu mode='custom'>", "<cpu mode='quantum'>")], "mode quantum is not known"),
        ([("<model>cortex-a57</model>", "<model>max</model><feature name='a,b'/>")], "needs a name"),
        ([("<model>cortex-a57</model>", "<numa><cell memory='1024' unit='MiB' cpus='^1'/></numa>")], "no list of ranges"),
        ([("</devices>", f"</devices>{RFC.replace('AQID', '?')}")], "not base64"),
        ([("</domain>", f"<q:commandline {XMLNS}><q:arg/></q:commandline></domain>")], "has no value"),
    ],
)  # fmt: skip
def test_what_is_no_realm_or_nothing_that_libvirt_starts_is_refused_by_name(replacements, words):
    assert words in refusal(changed(*replacements))


def test_devices_that_the_device_tree_shows_are_handed_on():
    xml = with_security(RFC, ("<memballoon model='none'/>", "<tpm model='tpm-tis'><backend type='emulator'/></tpm><flux/>"))
    domain = read_libvirt_domain(xml)
    assert parse_qemu_arguments(domain.arguments).tree_changes == ("-device tpm-tis-device: it changes the device tree",)
    assert any("<flux>: not known here" in remark for remark in domain.remarks)


@pytest.mark.parametrize(
    ("element", "change"),
    [
        ("<iommu model='virtio'/>", "-device virtio-iommu-pci: it changes the device tree"),
        ("<memory model='dimm'><target><size unit='MiB'>1</size></target></memory>", "-device pc-dimm: it changes the device tree"),
        ("<controller type='pci' model='pcie-expander-bus'/>", "-device pxb-pcie: it changes the device tree"),
    ],
)
def test_hardware_outside_of_pci_express_is_handed_on(element, change):
    assert realm(with_security(RFC, ("<memballoon model='none'/>", element))).tree_changes == (change,)


def test_several_nodes_with_several_ranges_of_cpus():
    cells = "<cell id='0' cpus='0,2' memory='1024' unit='MiB'/><cell id='1' cpus='1,3' memory='1048577'/>"
    xml = changed((">2<", ">4<"), ("<model>cortex-a57</model>", f"<model>max</model><numa>{cells}</numa>"))
    arguments = read_libvirt_domain(xml).arguments
    assert [word for word in arguments if word.startswith("node")] == [
        "node,nodeid=0,cpus=0,cpus=2,memdev=ram-node0", "node,nodeid=1,cpus=1,cpus=3,memdev=ram-node1",
    ]  # fmt: skip
    assert arguments[arguments.index("-m") + 1] == "size=2098176k"


def test_serial_ports_are_counted_as_libvirt_does():
    def ports(element: str) -> int:
        return read_libvirt_domain(changed(("<console type='pty'/>", element))).arguments.count("-serial")

    assert ports("") == 0
    assert ports("<console type='pty'><target type='virtio'/></console>") == 0
    assert ports("<serial type='pty'><target type='pci-serial'/></serial><console type='pty'/>") == 0
    assert ports("<serial type='pty'><target type='system-serial'/></serial><console type='pty'/>") == 1


def test_switched_features_and_remarks():
    xml = with_security(RFC, ("<model>cortex-a57</model>", "<model>max</model><feature policy='disable' name='sve'/>"),
                        ("<gic version='3'/>", "<gic version='3'/><ras/><tcg/>"))  # fmt: skip
    domain = read_libvirt_domain(xml)
    assert "max,sve=off" in domain.arguments
    assert "ras=on" in " ".join(domain.arguments)
    assert domain.remarks == ("<tcg>: not known here; taken for something that changes no measurement",)


def test_overrides_of_the_emulator_are_remarks():
    override = f"<q:override {XMLNS}/>"
    assert read_libvirt_domain(changed(("</domain>", f"{override}</domain>"))).remarks == (
        "<qemu:override>: what it changes is not seen here",
    )


def test_a_vcpu_without_topology_is_a_socket():
    xml = with_security(RFC, (">2<", ">4<"))
    assert realm(xml).topology.sockets == 4


# --- XML as an attack -------------------------------------------------------------------------------------------------

LAUGHS = b"""<!DOCTYPE d [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><domain>&b;</domain>"""


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        (LAUGHS, "document type"),
        (b'<!DOCTYPE d SYSTEM "file:///etc/passwd"><domain/>', "document type"),
        (b'<!DOCTYPE d [<!ENTITY % x SYSTEM "http://127.0.0.1/x"> %x;]><domain/>', "document type"),
        (b"<domain>&undefined;</domain>", "cannot be parsed"),
        ("<domain/>".encode("utf-16"), "not UTF-8"),
        (b'<?xml version="1.0" encoding="iso-8859-1"?><domain/>', "write it in UTF-8"),
        (b"<d>" * 40 + b"</d>" * 40, "nested more than"),
        (b"<d>" + b"<e/>" * 20_001 + b"</d>", "more than 20000 elements"),
        (b"<d>" + b" " * (1 << 20) + b"</d>", "more than 1048576 bytes"),
        (b"<domain><domain>", "cannot be parsed"),
        (b"<domain/><domain/>", "cannot be parsed"),
        (b"", "cannot be parsed"),
        (b"<domain><name>\0</name></domain>", "cannot be parsed"),
        (b"<domainsnapshot/>", "no libvirt domain"),
    ],
    ids=["billion-laughs", "external", "parameter-entity", "undefined-entity", "utf-16", "latin-1", "deep", "many", "large", "cut",
         "two-roots", "empty", "nul", "other-document"],
)  # fmt: skip
def test_hostile_xml_is_refused(attack, words):
    assert words in refusal(attack)


def test_five_entities_and_references_to_characters_are_xml_itself():
    assert parse_xml(b"<d>&lt;&#65;&amp;</d>").text == "<A&"


def test_text_around_children_is_kept_apart():
    root = parse_xml(b"<a>1<b>2</b>3</a>")
    assert (root.text, root.text_at("b")) == ("13", "2")


@given(st.binary(max_size=400))
def test_any_bytes_are_read_or_refused(data):
    with suppress(InvalidDocument):
        assert read_libvirt_domain(data).arguments


@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_characters="<&"), min_size=1, max_size=200))
def test_any_command_line_comes_out_as_it_went_in(text):
    arguments = read_libvirt_domain(changed(("<cmdline>console=ttyAMA0<", f"<cmdline>{text}<"))).arguments
    assert arguments[arguments.index("-append") + 1] == text
