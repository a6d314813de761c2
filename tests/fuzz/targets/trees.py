"""Device trees of a hostile host: the blob, the rules that judge it, the command line in it, and the rule packs themselves."""

import tomllib
from collections.abc import Iterable
from dataclasses import replace

from kbs_rim.appraisal.address_range import Range
from kbs_rim.appraisal.boot_rules import judge_boot_plan
from kbs_rim.appraisal.bootargs import BootargsRules, judge_bootargs, parse_command_line
from kbs_rim.appraisal.judged_tree import judge_device_tree
from kbs_rim.appraisal.supplied_tree import read_supplied_tree
from kbs_rim.appraisal.tree_pack import parse_rule_pack
from kbs_rim.appraisal.tree_rules import TreeOptions, judge_tree
from kbs_rim.appraisal.tree_surroundings import Surroundings
from kbs_rim.appraisal.workload import Role, parse_workload
from kbs_rim.errors import InvalidDocument, MalformedEvidence
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.limits import DEFAULT_LIMITS
from kbs_rim.measurement.boot_plan import BootPlan, CreateRecord, LoadedImage, LogArea
from kbs_rim.measurement.device_tree import DeviceTree, facts_of, parse_device_tree
from kbs_rim.measurement.device_tree_diff import diff_trees
from kbs_rim.measurement.device_tree_layout import read_tree_file
from kbs_rim.measurement.device_tree_text import tree_source
from kbs_rim.measurement.device_tree_writer import write_device_tree
from kbs_rim.measurement.image import Arm64Header
from kbs_rim.measurement.rmm import RealmCreate
from kbs_rim.measurement.vmm.stock_qemu import stock_qemu_tree
from kbs_rim.measurement.vmm.stock_qemu_arguments import read_stock_arguments
from kbs_rim.measurement.vmm.stock_qemu_definition import BootFiles, HostFacts, stock_machine
from kbs_rim.measurement.vmm.stock_qemu_profile import qemu_version
from kbs_rim.rule_packs import load_rule_packs, shipped_directory
from tests.fuzz.examination import Judged, Target, require, require_presentable
from tests.fuzz.vectors import device_trees

PACKS = tuple(load_rule_packs().values())
RULES = BootargsRules(
    required=("console=ttyAMA0",), allowed=("root=*", "ip=*:*:*", "rd.*", "--", "quiet"), forbidden=("rd.break*", "rd.shell", "ip=*evil*")
)
OPTIONS = TreeOptions(bootargs=RULES, allow_seeds=True)
AROUND = Surroundings(memory=(Range(0x40000000, 0x80000000),), initrd=(), log_area=())


def check_device_tree(data: bytes) -> object:
    """A tree that our writer can write is read back; facts are read or refused; source and findings can be shown."""
    tree = parse_device_tree(data)
    require(tree.total_size <= len(data), "a tree lies within the data")
    try:
        written = write_device_tree(tree.root)
    except ValueError:
        pass  # the writer is as strict as vm-fdt, which refuses names that the specification allows
    else:
        require(parse_device_tree(written).root == tree.root, "a tree that was written anew is the same")
    source = list(tree_source(tree))
    require(all(line.isascii() and line.replace("\t", "").isprintable() for line in source), "a tree's source is plain text")
    findings = _judged(tree)
    try:
        facts: object = facts_of(tree, len(data))
    except MalformedEvidence as error:
        facts = error.message
    return Judged(", ".join(sorted({str(item["id"]) for item in findings})), (tree, facts, source, findings))


def _judged(tree: DeviceTree) -> list[dict[str, object]]:
    documents = [finding.to_document() for pack in PACKS for finding in judge_tree(tree, pack, OPTIONS, AROUND)]
    for document in documents:
        for text in (document["message"], document.get("expected"), document.get("seen"), *document.get("where", {}).values()):
            require_presentable(None if isinstance(text, int) else text)
    return documents


def tree_seeds() -> Iterable[bytes]:
    """The trees of three VMMs, and one with a command line."""
    yield from device_trees()
    tree = parse_device_tree(device_trees()[0])
    chosen = [replace(node, properties={**node.properties, "bootargs": b'console=ttyAMA0 root="a b"\0'}) for node in tree.root.children[:1]]
    yield write_device_tree(replace(tree.root, children=(*chosen, *tree.root.children[1:])))


# --- the tree that a guest sends, in an appraisal ---------------------------------------------------------------------

_CREATE = CreateRecord(0, RealmCreate(HashAlgorithm.SHA256, 0, 40, 0, 3, 3, 0))
_WORKLOAD = parse_workload(
    {
        "name": "fuzz",
        "images": [{"role": "kernel", "images": [f"sha256:{'ab' * 32}"]}],
        "memory": {"base": 0x40000000, "size": {"min": 0, "max": 1 << 40}},
        "device_tree": {
            "mode": "rules",
            "pack": "qemu-virt",
            "bootargs": {"allowed": ["console=*", "quiet"]},
            "cpus": {"min": 1, "max": 8},
        },
    }
)
_BY_NAME = {pack.name: pack for pack in PACKS}


def check_supplied_tree(data: bytes) -> object:
    """The first byte says whether the log names these bytes, alone or padded, and who sent them. Only bytes that it names are judged, as a
    device tree, under the digest that they have; findings are few and can be shown.
    """
    choice, tree = (data[0], data[1:]) if data else (0, b"")
    loaded = tree.ljust(len(tree) + 4096 * (choice >> 4 & 3), b"\0")
    digest = HashAlgorithm.SHA256.digest(loaded if choice & 1 else b"another tree")
    image = LoadedImage(1, "DTB" if choice & 2 else "BLOB", 0x48000000, len(loaded), digest, HashAlgorithm.SHA256)
    log_area = (LogArea(2, 0x4F000000, 65536),) if choice & 8 else ()
    plan = BootPlan(HashAlgorithm.SHA256, None, _CREATE, (image, *log_area), sent_tree=None if choice & 4 else tree)
    reading = read_supplied_tree(tree if choice & 4 else None, plan, DEFAULT_LIMITS)
    supplied = reading.supplied
    resolved = {}
    if supplied is not None:
        require(bool(choice & 1), "a tree that the log does not name is not taken")
        require(supplied.image.measurements.digests[HashAlgorithm.SHA256] == digest, "a tree has the digest that we computed")
        require(supplied.image.roles == (Role.DEVICE_TREE,), "what comes as a tree is a tree and nothing else")
        resolved = {1: supplied.image}
    findings = [
        *judge_device_tree(plan, resolved, _WORKLOAD, reading, _BY_NAME, DEFAULT_LIMITS),
        *judge_boot_plan(plan, resolved, _WORKLOAD, None, judged_tree=supplied.image.id if supplied else None),
    ]
    require(len(findings) < 80, "findings are few")
    documents = [finding.to_document() for finding in findings]
    for document in documents:
        for text in (document["message"], document.get("expected"), document.get("seen"), *document.get("where", {}).values()):
            require_presentable(None if isinstance(text, int) else text)
    ids = sorted({finding.id for finding in findings if finding.id.startswith("tree.")})
    return Judged(", ".join(ids), (supplied.image.id if supplied else None, documents))


def supplied_seeds() -> Iterable[bytes]:
    """Trees that the log names, from log and envelope, padded and not; and one that it does not name."""
    for data in tree_seeds():
        yield from (bytes([choice]) + data for choice in (3, 7, 15, 0x13, 0x1F, 1, 2))


def check_bootargs(data: bytes) -> object:
    """What the rules object to can be shown; a text that is allowed is read as Linux reads it."""
    text = data.decode("utf-8", "replace")
    objections = tuple(judge_bootargs(text, RULES))
    for objection in objections:
        for shown in (objection.message, objection.expected, objection.seen):
            require_presentable(shown)
    if not objections:
        parameters = [str(parameter) for parameter in parse_command_line(text).parameters]
        require("console=ttyAMA0" in parameters, "what is required is there")
        require(not any(name.startswith(("rd.break", "rd.shell")) for name in parameters), "what is forbidden is not")
    return Judged(f"{min(len(objections), 4)} objections", objections)


def bootargs_seeds() -> Iterable[bytes]:
    """What a distribution writes, quotes, and the end of the kernel's part."""
    yield from (b"console=ttyAMA0 root=/dev/vda2 quiet", b'console=ttyAMA0 "root=a b" rd.x="c d"', b"console=ttyAMA0 -- quiet")
    yield from (b"", b"console=ttyAMA0 rd-break", b"ip=" + b":" * 100, b'a="', b"=x ==", b"console=ttyAMA0 init=/bin/sh")


def check_rule_pack(data: bytes) -> object:
    """A pack judges any tree, whatever it says itself."""
    try:
        document = tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        return Judged("not TOML", None)
    pack = parse_rule_pack(document)
    findings = [finding.to_document() for finding in judge_tree(_TREE, pack, OPTIONS, AROUND)]
    return Judged("a pack", (pack.name, findings))


_TREE = parse_device_tree(device_trees()[0])


def pack_seeds() -> Iterable[bytes]:
    """The packs that ship, each less some of its nodes, and small ones."""
    for file in sorted(shipped_directory().glob("*.toml")):
        head, *nodes = file.read_bytes().split(b"\n[[")
        yield b"\n[[".join((head, *nodes))
        for at in range(1, len(nodes), 4):
            yield b"\n[[".join((head, *nodes[:at], *nodes[at + 4 :]))
    small = b'name = "x"\nversion = 1\ndescription = "x"\n[[nodes]]\npath = "/"\n'
    yield small
    yield small + b'[nodes.must]\n"#size-cells" = { cells = [2] }\n[[nodes]]\npath = "/memory@<hex>"\nleast = 1\n'


_OTHER = read_tree_file(device_trees()[-1])


def check_tree_diff(data: bytes) -> object:
    """Against a tree of QEMU: the same both ways, plain text, and nothing differs exactly if no byte does."""
    file = read_tree_file(data)
    require(diff_trees(file, file) == (), "a tree does not differ from itself")
    there, back = diff_trees(_OTHER, file), diff_trees(file, _OTHER)
    require(bool(there) == (data != _OTHER.data), "what differs is reported")
    require(sorted((one.path, one.name) for one in there) == sorted((one.path, one.name) for one in back), "both ways show the same")
    for one in there:
        for text in (one.path, one.name, one.before, one.after):
            require_presentable(text)
    return Judged(f"{min(len(there), 200)} differences", [(one.change, one.subject, one.path, one.name, one.renumbered) for one in there])


def check_stock_arguments(data: bytes) -> object:
    """Arguments of QEMU, one a line: a machine whose tree our reader reads, or a refusal that can be shown."""
    words = data.decode("utf-8", "replace").split("\n")
    arguments = read_stock_arguments(words)
    for text in (*arguments.ignored, *arguments.remarks):
        require(len(text) < 400, "what is ignored is named in short")
    machine = stock_machine(arguments, _QEMU, _BOOT_FILES, HostFacts(pmu=True), None)
    if machine.topology.cpus > 16:
        return Judged("a large machine", machine)
    tree = parse_device_tree(stock_qemu_tree(machine))
    require(facts_of(tree).cpus == machine.topology.cpus, "the tree has the CPUs that were asked for")
    return Judged("a tree", tree)


_QEMU = qemu_version("10.0")
_BOOT_FILES = BootFiles(kernel=Arm64Header(0, 1 << 24, 0), initrd_size=5000)


def stock_arguments_seeds() -> Iterable[bytes]:
    """The command lines of the dumps, and what else changes a tree."""
    base = ["-M", "virt,gic-version=3,dtb-randomness=off", "-cpu", "max", "-m", "512M"]
    more = (
        [], ["-smp", "8,sockets=2,clusters=1,cores=2,threads=2"], ["-m", "size=1G,slots=2,maxmem=8G"], ["-smp", "2,maxcpus=4"],
        ["-kernel", "K", "-initrd", "I", "-append", "quiet"], ["-bios", "F"], ["-drive", "if=pflash,unit=0,file=F"],
        ["-M", "virt-8.2,secure=on,iommu=smmuv3,highmem-ecam=off"], ["-M", "virt,gic-version=4,virtualization=on"],
        ["-object", "memory-backend-ram,id=a,size=512M", "-numa", "node,memdev=a,cpus=0"], ["-device", '{"driver":"virtio-rng-pci"}'],
        ["-object", "rme-guest,id=r,measurement-log=on"], ["-accel", "kvm", "-cpu", "host"], ["-serial", "null", "-serial", "null"],
    )  # fmt: skip
    for words in more:
        yield "\n".join([*base, *words]).encode()


TARGETS = (
    Target(name="device_tree_diff", check=check_tree_diff, seeds=tree_seeds, max_bytes=16 * 1024, cpu_ms=100),
    Target(
        name="stock_qemu_arguments",
        check=check_stock_arguments,
        seeds=stock_arguments_seeds,
        refusals=(InvalidDocument,),
        words=(b"\n-M\n", b"\n-smp\n", b"\n-m\n", b"\n-numa\nnode,", b",sockets=", b"=off", b"=on", b"512M", b"=0x"),
        cpu_ms=200,
    ),
    Target(name="device_tree", check=check_device_tree, seeds=tree_seeds, max_bytes=16 * 1024, cpu_ms=100),
    Target(name="supplied_tree", check=check_supplied_tree, seeds=supplied_seeds, max_bytes=16 * 1024, cpu_ms=100),
    Target(name="bootargs", check=check_bootargs, seeds=bootargs_seeds, words=(b" ", b'"', b"=", b"--", b"rd.break", b"console=ttyAMA0")),
    Target(
        name="rule_pack",
        check=check_rule_pack,
        seeds=pack_seeds,
        refusals=(InvalidDocument,),
        words=(b"\n[[nodes]]\n", b"[nodes.may]\n", b'path = "/', b"<hex>", b" = { ", b"cells = [", b"&gic", b"0x"),
        max_bytes=12 * 1024,
        cpu_ms=200,
        cpu_ms_per_kib=50,
    ),
)
