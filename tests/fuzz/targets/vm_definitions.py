"""Definitions of VMs in files of other programs: libvirt's XML, cloud-hypervisor's JSON, IGVM files, command lines as text."""

import json
import struct
import zlib
from collections.abc import Iterable

from kbs_rim.errors import InvalidDocument
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.measurement.igvm import parse_igvm
from kbs_rim.measurement.igvm_launch import read_launch
from kbs_rim.measurement.rmm import DataCreate
from kbs_rim.measurement.vmm.arguments import parse_arguments
from kbs_rim.measurement.vmm.cloud_hypervisor_json import cloud_hypervisor_arguments
from kbs_rim.measurement.vmm.command_text import command_words
from kbs_rim.measurement.vmm.definition import Vmm
from kbs_rim.measurement.vmm.libvirt_domain import read_libvirt_domain
from kbs_rim.measurement.vmm.named_files import named_files
from tests.fuzz.examination import Judged, Target, require
from tests.fuzz.vectors import VECTORS, files
from tests.igvm_forge import context, header, igvm_file, page, platform, policy

_FIXED_BYTES = 32
_DOCTYPE = b"<!DOCTYPE"


def _defined(vmm: Vmm, arguments: tuple[str, ...]) -> object:
    """What the arguments define, or what is wrong with them; arguments that were made here hold nothing that is no text."""
    require(all(isinstance(word, str) and "\0" not in word for word in arguments), "arguments are words")
    try:
        definition = parse_arguments(vmm, arguments)
    except InvalidDocument as error:
        return Judged(error.finding_id, error.message)
    named = named_files(vmm, arguments)
    require(definition.images <= set(named) | {"device-tree"}, "each image that is loaded has a name")
    return Judged("defined", (definition.topology, definition.ram_size, sorted(definition.images), sorted(named.items())))


def check_libvirt(data: bytes) -> object:
    """No document type is ever read."""
    domain = read_libvirt_domain(data, (10, 0))
    require(_DOCTYPE not in data.partition(b"<domain")[0], "a document type is refused")
    require(all(remark.isprintable() for remark in domain.remarks), "remarks can be shown")
    return _defined("qemu", domain.arguments)


def libvirt_seeds() -> Iterable[bytes]:
    """libvirt's own definitions, and those of realms in their dialects."""
    cases = [case["xml"] for case in json.loads((VECTORS / "images" / "libvirt-argv.json").read_text())["cases"]]
    yield from (xml.encode() for xml in cases)
    for security in (
        "<launchSecurity type='cca' measurement-log='yes'><measurement-algo>sha256</measurement-algo></launchSecurity>",
        "<launchSecurity type='cca'><measurement-log state='off'/><personalization-value>AQID</personalization-value></launchSecurity>",
        "<launchSecurity type='cca' hisi-cca-enable='yes'/>",
    ):
        yield cases[0].replace("</devices>", f"</devices>{security}").encode()
    yield b'<!DOCTYPE d [<!ENTITY a "b">]><domain>&a;</domain>'


def check_cloud_hypervisor(data: bytes) -> object:
    """What is read becomes arguments that the command line's parser judges."""
    return _defined("cloud-hypervisor", cloud_hypervisor_arguments(data))


def cloud_hypervisor_seeds() -> Iterable[bytes]:
    """Configurations as its API takes them, new and old."""
    payload = {"kernel": "Image", "initramfs": "initrd", "cmdline": "console=hvc0"}
    whole = {"cpus": {"boot_vcpus": 2, "max_vcpus": 2, "topology": None}, "memory": {"size": 1 << 30, "zones": None}, "payload": payload}
    platform_members = {"num_pci_segments": 1, "measurement_algo": "sha256", "personalization_value": "AQID"}
    for document in (
        whole,
        {**whole, "serial": {"mode": "Off"}, "platform": platform_members, "disks": [{"path": "a"}], "pvpanic": True},
        {"config": whole, "state": "Running"},
        {"kernel": {"path": "Image"}, "cmdline": {"args": "a"}},
        {**whole, "numa": [{}]},
    ):
        yield json.dumps(document).encode()


def check_igvm(data: bytes) -> object:
    """Sizes and checksum are mended first, or no change would get behind them. Measured pages are operations, in order."""
    if data[:4] == b"IGVM" and len(data) >= _FIXED_BYTES:
        start, size = struct.unpack_from("<II", data, 8)
        data = data[:16] + struct.pack("<I", len(data)) + data[20:]
        head = data[:20] + bytes(4) + data[24:_FIXED_BYTES]
        data = data[:20] + struct.pack("<I", zlib.crc32(data[start : start + size], zlib.crc32(head))) + data[24:]
    launch = read_launch(parse_igvm(data))
    operations = list(launch.operations(HashAlgorithm.SHA256))
    require(len(operations) == len(launch.pages) + len(launch.recs), "each page and vCPU is one operation")
    runs = launch.runs(*(item.rec.pc for item in launch.recs))
    require(sum(run.size for run in runs) == 4096 * len(launch.pages), "runs hold each page once")
    return Judged("launch", [operation.ipa if isinstance(operation, DataCreate) else operation.pc for operation in operations])


def igvm_seeds() -> Iterable[bytes]:
    """Small files of our own, and the vector."""
    yield from files("images/igvm/*.igvm")
    yield igvm_file([platform(), policy(1), page(0x1000, b"x"), page(0x2000, None), page(0x3000, b"y", 2), context(0x1000)])
    area, insert = header(0x301, struct.pack("<QII", 4096, 0, 0)), header(0x303, struct.pack("<QII", 0x8000, 1, 0))
    yield igvm_file([platform(), area, header(0x312, struct.pack("<II", 0, 0)), insert, page(0x1000, b"x"), context(0x1000, 0x8000)])
    yield igvm_file([platform(kind=2), page(0x1000, b"x"), context(0x1000)])


def check_command(data: bytes) -> object:
    """The words of a command are what its parser gets."""
    words = command_words(data.decode("utf-8", "surrogateescape"))
    require(bool(words), "there is a word")
    return Judged("words", words)


def command_seeds() -> Iterable[bytes]:
    """Scripts and what /proc has."""
    yield b"# starts it\nsudo A='b c' qemu-system-aarch64 \\\n -m 1G -append \"root=/dev/vda ro\"\n"
    yield b"lkvm\0run\0--realm\0-c\0001\0"
    yield b"lkvm run -p 'a \"b\" c' | tee log"
    yield b"exec cloud-hypervisor --cpus boot=1"


TARGETS = (
    Target(
        name="libvirt_xml",
        check=check_libvirt,
        seeds=libvirt_seeds,
        refusals=(InvalidDocument,),
        words=(
            b"<launchSecurity type='cca'/>",
            b"<gic version='3' its='off'/>",
            b"<qemu:arg value='",
            b"<numa><cell ",
            b"<!ENTITY",
            b"&#",
            b"]]>",
        ),
        cpu_ms=100,
    ),
    Target(
        name="cloud_hypervisor_json",
        check=check_cloud_hypervisor,
        seeds=cloud_hypervisor_seeds,
        refusals=(InvalidDocument,),
        words=(b'"memory":', b'"payload":', b'"platform":', b'"serial":', b'"topology":', b"null"),
        cpu_ms=100,
    ),
    Target(
        name="igvm",
        check=check_igvm,
        seeds=igvm_seeds,
        refusals=(InvalidDocument,),
        words=(b"IGVM", b"\x01\x03\0\0", b"\x02\x03\0\0", b"\x03\x03\0\0", b"\x04\x03\0\0", b"\x06\x01\0\0"),
        max_bytes=20 * 1024,
        cpu_ms=100,
    ),
    Target(
        name="command_text",
        check=check_command,
        seeds=command_seeds,
        refusals=(InvalidDocument,),
        words=(b"\\\n", b"'", b'"', b"&&", b"\0"),
        cpu_ms=100,
        cpu_ms_per_kib=20,
    ),
)
