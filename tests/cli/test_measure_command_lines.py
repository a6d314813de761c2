"""Command lines as people write them, many forms of each option, against a second calculator (``slow_realm``)."""

import base64
import gzip
import json
import random
import struct
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from kbs_rim.cli import main
from tests.measurement.slow_realm import GIB, MIB, Slow, measure

SIZES = (256 * MIB, 512 * MIB, 300 * MIB, GIB, 66 * MIB, 2 * GIB + 2 * MIB)
RPV = bytes(range(20))


@dataclass
class Line:
    """A command line in the making: the tool's options, the VMM's arguments in groups that may stand in any order."""

    options: list[list[str]] = field(default_factory=list)
    groups: list[list[str]] = field(default_factory=list)


def kernel_of(chance: random.Random) -> bytes:
    offset, memory = chance.choice((0, 0, 0x80000)), chance.choice((0, 20 * MIB, 100 * MIB + 1))
    head = bytes(8) + struct.pack("<6Q", offset, memory, 10, 0, 0, 0) + b"ARMd"
    return head + chance.randbytes(chance.choice((4, 4036, 4037, 9000)))


def size_text(chance: random.Random, size: int, units: str, plain: int) -> str:
    """One of the ways to write a size; without a letter the number counts ``plain`` bytes."""
    steps = {"K": 1 << 10, "M": MIB, "G": GIB, "B": 1}
    forms = [f"{size // steps[unit]}{unit}" for unit in units if size % steps[unit] == 0]
    return chance.choice([*forms, *([str(size // plain)] if size % plain == 0 else [])])


def option(chance: random.Random, long: str, value: str, short: str | None = None) -> list[str]:
    """One of the ways in which getopt and click take an option with a value."""
    forms = [[long, value], [f"{long}={value}"]]
    return chance.choice([*forms, [short, value], *([[f"{short}{value}"]] if value else [])] if short else forms)


def host(chance: random.Random, vm: Slow, folder: Path) -> list[list[str]]:
    """Say what the host offers: in options, or in two files of which the lower value counts, or in a file that an option overrides."""
    values = {"num_bps": vm.bps, "num_wps": vm.wps, "sve_vl": vm.sve, "lpa2": vm.lpa2, "ipa_bits": vm.ipa_limit}
    if vm.counters is not None:
        values |= {"pmu": True, "pmu_num_ctrs": vm.counters}
    way = chance.randrange(3)
    if way == 0:
        return [
            option(chance, f"--{name.replace('_', '-')}", str(value).lower()) for name, value in values.items() if value is not False
        ]  # fmt: skip
    more = {"num_bps": 64, "num_wps": 64, "sve_vl": 2048, "lpa2": True, "ipa_bits": 52, "pmu": True, "pmu_num_ctrs": 31}
    documents = ({name: more[name] for name in values}, values) if way == 1 else ({name: more[name] for name in values},)
    given = []
    for number, document in enumerate(documents):
        file = folder / f"host{number}.conf"
        file.write_text("".join(f"{name} = {str(value).lower()}\n" for name, value in document.items()))
        given.append(option(chance, "--config", str(file), "-c"))
    chance.shuffle(given)
    if way == 1:
        return given
    return given + [option(chance, f"--{name.replace('_', '-')}", str(value).lower()) for name, value in values.items()]


def images(chance: random.Random, vm: Slow, folder: Path) -> list[list[str]]:
    given = []
    for role, data in vm.images.items():
        file = folder / role
        file.write_bytes(gzip.compress(data) if role == "kernel" and chance.random() < 0.4 else data)
        given.append(option(chance, f"--{role}", str(file), f"-{role[0]}"))
    return given


def kvmtool(chance: random.Random, folder: Path) -> tuple[Slow, Line]:
    kinds = chance.choice(((), ("kernel",), ("kernel", "initrd"), ("initrd",), ("firmware",), ("firmware", "initrd")))
    vm = common(chance, "kvmtool", kinds)
    vm = replace(vm, ram=vm.ram // (2 * MIB) * 2 * MIB, log=chance.random() < 0.4, its=chance.random() < 0.7)
    line = Line([*host(chance, vm, folder), *images(chance, vm, folder)])
    line.groups += [option(chance, "--cpus", str(vm.cpus), "-c"), option(chance, "--mem", size_text(chance, vm.ram, "KMG", MIB), "-m")]
    line.groups += [option(chance, f"--{role}", "ON-THE-HOST", f"-{role[0]}") for role in vm.images]
    line.groups.append(option(chance, "--irqchip", "gicv3-its" if vm.its else "gicv3"))
    if vm.its and chance.random() < 0.5:
        line.groups.pop()
    if vm.hash != "sha256" or chance.random() < 0.3:
        line.groups.append(option(chance, "--measurement-algo", vm.hash))
    if vm.counters is not None:
        line.groups.append(["--pmu"])
        if vm.counters > 1 and chance.random() < 0.5:
            vm = replace(vm, counters=vm.counters - 1)
            line.groups.append(option(chance, "--pmu-counters", str(vm.counters)))
    if vm.sve and chance.random() < 0.5:
        vm = replace(vm, sve=chance.choice((0, 128)))
        line.groups.append(["--disable-sve"] if vm.sve == 0 else option(chance, "--sve-max-vl", "128"))
    if vm.log:
        line.groups.append(["--measurement-log"])
    if vm.bootargs is not None:
        line.groups.append(option(chance, "--params", vm.bootargs, "-p"))
    if "firmware" in vm.images and chance.random() < 0.5:
        vm = replace(vm, firmware_at=0x80100000)
        line.groups.append(option(chance, "--firmware-address", str(0x80100000)))
    vm, devices = kvmtool_devices(chance, vm)
    line.groups += [*devices, ["--realm"], ["--restricted_mem"], ["--realm-pv", "some text"], *ignored_kvmtool(chance)]
    return vm, line


def kvmtool_devices(chance: random.Random, vm: Slow) -> tuple[Slow, list[list[str]]]:
    mmio, count, groups = chance.random() < 0.5, 1, []
    for group in (["--balloon"], ["--rng"], ["--9p", "/a,b"], ["--vsock", "3"], ["--console", "virtio"], ["-d", "disk"], ["--disk=b"]):
        if chance.random() < 0.3:
            groups.append(group)
            count += 1
    if chance.random() < 0.4:
        groups.append(option(chance, "--network", chance.choice(("mode=user", "mode=tap,trans=" + ("mmio" if mmio else "pci"))), "-n"))
    elif chance.random() < 0.4:
        groups.append(["-n", "mode=none"])
        count -= 1
    groups.append(option(chance, "--virtio-transport", "mmio" if mmio else "pci"))
    return replace(vm, mmio=count if mmio else 0), groups


def ignored_kvmtool(chance: random.Random) -> list[list[str]]:
    known = (["--name", "x"], ["--debug"], ["--no-pvtime"], ["--loglevel=debug"], ["--vcpu-affinity", "0"], ["--force-pci"],
             ["--disable-mte"], ["--nodefaults"], ["--tty", "0"], ["--dev", "/dev/kvm"], ["--dtb", "t"], ["--hugetlbfs", "/h"])  # fmt: skip
    return chance.sample(known, chance.randint(0, 3))


def qemu(chance: random.Random, folder: Path) -> tuple[Slow, Line]:
    kinds = chance.choice(((), ("kernel",), ("kernel", "initrd"), ("firmware",), ("firmware", "kernel", "initrd")))
    vm = replace(common(chance, "qemu", kinds), hash=chance.choice(("sha256", "sha512")), log=chance.random() < 0.4)
    vm = replace(vm, its=chance.random() < 0.7, cpus=chance.choice((1, 2, 3, 4, 8, 124)))
    line = Line([*host(chance, vm, folder), *images(chance, vm, folder)])
    words = {"kernel": "kernel", "initrd": "initrd", "firmware": "bios"}
    line.groups += [qemu_option(chance, words[role], "ON-THE-HOST") for role in vm.images]
    line.groups += [["-smp", smp_text(chance, vm.cpus)], *machine(chance, vm), guest(chance, vm)]
    memory = size_text(chance, vm.ram, "KMGB", MIB)
    if chance.random() < 0.3:
        vm = replace(vm, most=chance.choice((vm.ram, 300 * GIB, 1024 * GIB)), slots=chance.randint(0, 3))
        items = [f"maxmem={vm.most // MIB}M", f"slots={vm.slots}", f"size={memory}"]
        chance.shuffle(items)
        line.groups.append(["-m", ",".join(items)])
    else:
        line.groups.append(qemu_option(chance, "m", chance.choice((memory, memory.lower(), f"size={memory}"))))
    vm, cpu = qemu_cpu(chance, vm)
    line.groups.append(["-cpu", cpu])
    if vm.bootargs is not None:
        line.groups.append(qemu_option(chance, "append", vm.bootargs))
    line.groups += ignored_qemu(chance)
    return vm, line


def qemu_option(chance: random.Random, name: str, value: str) -> list[str]:
    return chance.choice(([f"-{name}", value], [f"--{name}", value], [f"-{name}={value}"], [f"--{name}={value}"]))


def smp_text(chance: random.Random, cpus: int) -> str:
    forms = [f"{cpus}", f"cpus={cpus}", f"{cpus},maxcpus={cpus}", f"cores={cpus}", f"{cpus},sockets={cpus},cores=1,threads=1"]
    forms += [f"{cpus},sockets=2", f"threads=2,cores={cpus // 2}", f"{cpus},clusters=2,dies=1"] if cpus % 2 == 0 else []
    return chance.choice(forms)


def machine(chance: random.Random, vm: Slow) -> list[list[str]]:
    items = [chance.choice(("gic-version=3", "gic-version=host", "gic-version=max")), "confidential-guest-support=rme0"]
    items.append(f"its={chance.choice(('on', 'yes', 'true', 'y') if vm.its else ('off', 'no', 'false', 'n'))}")
    items += chance.sample(("acpi=off", "usb=off", "ras=on", "dump-guest-core=off", "highmem=on"), 2)
    name, kind = chance.choice(("-M", "-machine", "--machine")), chance.choice(("virt", "virt-9.1", "type=virt"))
    chance.shuffle(items)
    return [[name, ",".join([kind, *items])]] if chance.random() < 0.5 else [["-M", kind], *(["-M", item] for item in items)]


def guest(chance: random.Random, vm: Slow) -> list[str]:
    members = {"id": "rme0", "measurement-algorithm": vm.hash, "personalization-value": base64.b64encode(RPV).decode()}
    if vm.log or chance.random() < 0.3:
        members["measurement-log"] = "on" if vm.log else "off"
    if chance.random() < 0.3:
        return ["-object", json.dumps({"qom-type": "rme-guest", **members})]
    return qemu_option(chance, "object", ",".join(["rme-guest", *(f"{key}={value}" for key, value in members.items())]))


def qemu_cpu(chance: random.Random, vm: Slow) -> tuple[Slow, str]:
    items = [chance.choice(("host", "max"))]
    if vm.counters is not None:
        items.append(chance.choice(("pmu=on", "pmu=auto", "pmu=off")))
        vm = replace(vm, counters=None) if items[-1] == "pmu=off" else vm
    if vm.bps > 3 and chance.random() < 0.4:
        vm = replace(vm, bps=3, wps=min(vm.wps, 4))
        items += ["num-breakpoints=3", "num-watchpoints=4"]
    if vm.counters is not None and vm.counters > 2:
        vm = replace(vm, counters=2)
        items.append("num-pmu-counters=2")
    switch = chance.choice(("", "", "sve=off", "sve=on", "sve256=off", "sve1024=off,sve512=off", "sve128=on"))
    if switch:
        items.append(switch)
        lengths = {"sve=off": 0, "sve256=off": 128, "sve1024=off,sve512=off": 256}
        vm = replace(vm, sve=min(vm.sve, lengths.get(switch, vm.sve)))
    return vm, ",".join(items)


def ignored_qemu(chance: random.Random) -> list[list[str]]:
    known = (
        ["-nographic"], ["-nodefaults"], ["-enable-kvm"], ["-accel", "kvm"], ["-dtb", "t"], ["-device", "virtio-net-pci,netdev=n"],
        ["-netdev", "user,id=n"], ["-chardev", "stdio,id=c"], ["-serial", "chardev:c"], ["-mon", "chardev=c"], ["-name", "vm"], ["-S"],
        ["-drive", "if=none,file=d"], ["-device", "virtio-blk-pci,drive=d"], ["-overcommit", "mem-lock=off"], ["-display", "none"],
        ["-object", "memory-backend-ram,id=r,size=1G"], ["-fsdev", "local,id=f"], ["-boot", "strict=on"],
    )  # fmt: skip
    return chance.sample(known, chance.randint(0, 5))


def cloud_hypervisor(chance: random.Random, folder: Path) -> tuple[Slow, Line]:
    vm = common(chance, "cloud-hypervisor", chance.choice(((), ("kernel",), ("kernel", "initrd"), ("initrd",))))
    vm = replace(vm, hash=chance.choice(("sha256", "sha512")), serial=chance.random() < 0.5, ipa_limit=chance.choice((40, 48, 52)))
    line = Line([*host(chance, vm, folder), *images(chance, vm, folder)])
    words = {"kernel": "--kernel", "initrd": "--initramfs"}
    line.groups += [option(chance, words[role], "ON-THE-HOST") for role in vm.images]
    line.groups.append(option(chance, "--cpus", f"boot={vm.cpus}" + chance.choice(("", f",max={vm.cpus}"))))
    line.groups.append(option(chance, "--memory", f"size={size_text(chance, vm.ram, 'KMG', 1)}" + chance.choice(("", ",shared=on"))))
    rpv = base64.b64encode(RPV).decode()
    line.groups.append(["--platform", f"arm_rme=on,measurement_algo={vm.hash},personalization_value={rpv}"])
    if not vm.serial:
        line.groups.append(["--serial", "off"])
    if vm.bootargs is not None:
        line.groups.append(option(chance, "--cmdline", vm.bootargs))
    line.groups += chance.sample((["-v"], ["--net", "fd=3,mac="], ["--console", "tty"], ["--disk", "path=x"], ["--rng", "src=/dev/r"]), 2)
    return vm, line


def common(chance: random.Random, vmm: str, kinds: tuple[str, ...]) -> Slow:
    makers = {
        "kernel": kernel_of,
        "initrd": lambda chance: chance.randbytes(chance.choice((1, 14, 4096, 10001))),
        "firmware": lambda chance: chance.randbytes(chance.choice((10, 8192, 65537))),
    }
    return Slow(
        vmm=vmm, cpus=chance.choice((1, 2, 5, 8)), ram=chance.choice(SIZES), images={kind: makers[kind](chance) for kind in kinds},
        bootargs=chance.choice((None, "quiet", "root=/dev/vda2 ro", "")) if vmm != "qemu" or "kernel" in kinds else None,
        hash=chance.choice(("sha256", "sha512")), bps=chance.choice((2, 6, 16)), wps=chance.choice((2, 4, 16)),
        sve=chance.choice((0, 128, 512, 2048)), counters=chance.choice((None, 0, 1, 8)), lpa2=chance.random() < 0.3,
    )  # fmt: skip


MAKERS = {"kvmtool": kvmtool, "qemu": qemu, "cloud-hypervisor": cloud_hypervisor}


def fits(vm: Slow) -> bool:
    """Whether it is a VM at all: large kernels do not go into little RAM."""
    return vm.ram >= 256 * MIB or not vm.images


@pytest.mark.parametrize("seed", range(50))
@pytest.mark.parametrize("vmm", sorted(MAKERS))
def test_the_rim_is_that_of_the_second_calculator(capsys, tmp_path, vmm, seed):
    chance = random.Random(f"{vmm} {seed}")
    vm, line = MAKERS[vmm](chance, tmp_path)
    while not fits(vm):
        vm, line = MAKERS[vmm](chance, tmp_path)
    rmm = chance.choice(("1.0", "1.0", "2.0"))
    chance.shuffle(line.options)
    chance.shuffle(line.groups)
    split = chance.randint(0, len(line.options))
    before, behind = ([word for part in parts for word in part] for parts in (line.options[:split], line.options[split:]))
    name = "cloud-hv" if vmm == "cloud-hypervisor" and chance.random() < 0.5 else vmm
    words = ["measure", *before, name, *behind, "--rmm", rmm, "--json", "--", *(word for group in line.groups for word in group)]
    with pytest.raises(SystemExit) as ended:
        main(words)
    out, err = capsys.readouterr()
    assert ended.value.code == 0, (words, err)
    document = json.loads(out)
    rim, tree = measure(replace(vm, rmm=rmm))
    assert (document["dtb_sha256"], document["rim"]) == (tree, rim), (words, vm)
