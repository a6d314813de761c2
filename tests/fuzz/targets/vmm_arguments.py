"""What an administrator pastes or another program hands on: command lines of VMMs, host capabilities, VMM profiles, templates."""

import json
import tomllib
from collections.abc import Iterable
from pathlib import Path

from kbs_rim.errors import InvalidDocument, MalformedEvidence
from kbs_rim.measurement.device_tree import parse_device_tree
from kbs_rim.measurement.image import Arm64Header
from kbs_rim.measurement.rmm import RmmVersion
from kbs_rim.measurement.vmm import HostParameters, VmRequest
from kbs_rim.measurement.vmm.arguments import parse_arguments
from kbs_rim.measurement.vmm.calculation import plan_measurement
from kbs_rim.measurement.vmm.definition import VMMS, VmDefinition
from kbs_rim.measurement.vmm.host_capabilities import HostCapabilities, parse_host_capabilities
from kbs_rim.measurement.vmm.profile_document import parse_profile
from kbs_rim.measurement.vmm.request import EffectiveHost, ImageSize, effective_host, request_of
from kbs_rim.measurement.vmm.shipped_profiles import DEFAULTS, KVMTOOL, QEMU
from kbs_rim.measurement.vmm.stock_qemu_profile import qemu_version
from kbs_rim.measurement.vmm.stock_qemu_realm import StockChoice, read_stock_realm, stock_realm_tree
from kbs_rim.measurement.vmm.tree_template import patch_template
from tests.fuzz.examination import Judged, Target, require, require_presentable
from tests.fuzz.vectors import VECTORS, device_trees, files

CONFIG = Path(__file__).parents[3] / "config"
HOST = HostCapabilities(ipa_bits=52, num_bps=16, num_wps=16, pmu_num_ctrs=8, sve_vl=512, pmu=True, lpa2=True)
STOCK = StockChoice(version=qemu_version("10.0"))
SIZES = {
    "kernel": ImageSize(4 << 20, Arm64Header(0, 8 << 20, 0)),
    "initrd": ImageSize(10001),
    "firmware": ImageSize(2 << 20),
}


def check_arguments(data: bytes) -> object:
    """The first byte chooses the VMM, a NUL ends an argument. What is defined can be laid out or is refused; words can be shown."""
    vmm = VMMS[data[0] % len(VMMS) if data else 0]
    arguments = [part.decode("utf-8", "surrogateescape") for part in data[1:].split(b"\0")]
    definition = parse_arguments(vmm, arguments)
    for text in (*definition.ignored, *definition.remarks, *definition.tree_changes):
        # The command prints them; what does not print is escaped by the terminal's side of click, so only the length is a promise here.
        require(len(text) < 400, "a remark is short")
    try:
        host = effective_host(definition, HOST, DEFAULTS[vmm])
        request = request_of(definition, host, {role: SIZES[role] for role in definition.images})
        plan = plan_measurement(DEFAULTS[vmm], request, RmmVersion.V2_0)
    except InvalidDocument as error:
        require_presentable(error.message)
        return Judged(error.finding_id, error.message)
    tree = parse_device_tree(plan.layout.device_tree)
    require(sum(node.name.startswith("cpu@") for node in tree.root.walk()) == definition.topology.count, "each CPU is in the tree")
    require(
        [image.thing for image in plan.images] == [place.role for place in plan.layout.loads if place.role != "device-tree"],
        "all is measured",
    )
    if vmm == "qemu" and not definition.tree_given:
        require_same_machine(arguments, definition, host, request)
    return Judged("planned", (sorted(definition.images), request, [str(step) for step in plan.operations], plan.layout.params))


def require_same_machine(arguments: list[str], definition: VmDefinition, host: EffectiveHost, request: VmRequest) -> None:
    """The reader for QEMU's own tree may refuse an option, but never means another machine by it."""
    try:
        read, _ = read_stock_realm(arguments, definition)
        tree = stock_realm_tree(read, QEMU, request, host, STOCK)
    except InvalidDocument as error:
        require("is not the same" not in error.message, f"one machine: {error.message}")
        return
    require(len(tree) == 1 << 20, "QEMU loads 1 MiB")


def argument_seeds() -> Iterable[bytes]:
    """The command lines of the reference tool's tests, and of libvirt."""
    vmms = {"qemu": 0, "kvmtool": 1, "cloud-hv": 2}
    for content in files("vmm/vmm-*.json", most=1 << 20):
        for case in json.loads(content)["cases"]:
            yield bytes([vmms[case["vmm"]]]) + "\0".join(case["vmm_args"]).encode()
    for case in json.loads((VECTORS / "images" / "libvirt-argv.json").read_text())["cases"]:
        if case["error"] is None:
            yield b"\0" + "\0".join(case["argv"]).encode()


def check_document(data: bytes) -> object:
    """TOML that is a profile, or the capabilities of a host; a profile can be laid out or is refused."""
    try:
        document = tomllib.loads(data[:8192].decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return Judged("no TOML", None)
    if "extends" not in document:
        return Judged("host", parse_host_capabilities(document))
    profile = parse_profile(document)
    request = VmRequest(cpus=1, ram_size=64 << 20, boot="none", host=HostParameters())
    try:
        plan = plan_measurement(profile, request, RmmVersion.V1_0)
    except InvalidDocument as error:
        return Judged("refused layout", error.message)
    return Judged("profile", [str(step) for step in plan.operations])


def document_seeds() -> Iterable[bytes]:
    """The files that ship."""
    for folder in ("host_capabilities", "vmm_profiles"):
        yield from (file.read_bytes() for file in sorted((CONFIG / folder).glob("*.toml")))


def check_template(data: bytes) -> object:
    """The first byte chooses the VMM. A patched tree is a tree, and patching it again changes nothing."""
    profile = (QEMU, KVMTOOL)[data[0] % 2 if data else 0]
    request = VmRequest(
        cpus=3,
        ram_size=512 << 20,
        boot="kernel",
        kernel_size=4096,
        kernel_header=SIZES["kernel"].header,
        host=HostParameters(),
        bootargs="a",
    )
    patched = patch_template(profile, request, data[1:])
    try:
        parse_device_tree(patched)
    except MalformedEvidence as error:
        # Two nodes called alike, or a limit: replacing made them so.
        return Judged("patched into no tree", error.message)
    require(patch_template(profile, request, patched) == patched, "patching twice is patching once")
    return Judged("patched", len(patched))


def template_seeds() -> Iterable[bytes]:
    """Real trees, for both VMMs."""
    for tree in device_trees():
        yield b"\0" + tree
        yield b"\x01" + tree


TARGETS = (
    Target(
        name="vmm_arguments",
        check=check_arguments,
        seeds=argument_seeds,
        refusals=(InvalidDocument,),
        words=(
            b"-smp\0",
            b"-m\0",
            b"-M\0virt,",
            b"-object\0rme-guest,",
            b"-cpu\0host,",
            b"sve512=off",
            b"--cpus\0boot=",
            b"--mem\0",
            b",,",
            b'{"',
        ),
        cpu_ms=400,
    ),
    Target(
        name="vmm_documents",
        check=check_document,
        seeds=document_seeds,
        refusals=(InvalidDocument,),
        words=(b'extends = "kvmtool"\n', b'name = "x"\nversion = "1"\nsource = "y"\n', b"operations = [", b"[flows.none]\n", b"num_bps = "),
        cpu_ms=200,
    ),
    Target(
        name="tree_template",
        check=check_template,
        seeds=template_seeds,
        refusals=(InvalidDocument, MalformedEvidence),
        words=(b"\0\0\0\x01", b"\0\0\0\x02", b"\0\0\0\x03", b"\0\0\0\x04", b"\0\0\0\x09", b"cpus\0", b"intc\0"),
        max_bytes=32 * 1024,
        cpu_ms=200,
    ),
)
