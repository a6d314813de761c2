"""A second calculator, slow and plain: device trees, layouts and RIMs of RMM 1.0 and 2.0, with nothing of the package in it.

It is written from the RMM specification (B4.3.1.4, B4.3.5.4, B4.3.9.4, B4.3.12.4) and the public description of realm VMs
(veraison/cca-realm-measurements, docs/realm-vm.md), one hash at a time, so that it can be held against ``kbs-rim measure``.
"""

import hashlib
import struct
from dataclasses import dataclass

PAGE, MIB, GIB = 4096, 1 << 20, 1 << 30
Node = tuple[str, list[tuple[str, bytes]], list]


@dataclass(frozen=True)
class Slow:
    """What is measured. ``s2sz`` and the counts are as people count them; ``images`` are kernel, initrd and firmware as loaded."""

    vmm: str
    cpus: int
    ram: int
    images: dict[str, bytes]
    bootargs: str | None = None
    hash: str = "sha256"
    bps: int = 6
    wps: int = 6
    sve: int = 0
    counters: int | None = None
    lpa2: bool = False
    its: bool = True
    log: bool = False
    mmio: int = 0
    firmware_at: int | None = None
    most: int | None = None
    slots: int = 0
    serial: bool = True
    ipa_limit: int = 52
    rmm: str = "1.0"


def up(value: int, step: int) -> int:
    return (value + step - 1) // step * step


def u32(*values: int) -> bytes:
    return struct.pack(f">{len(values)}I", *values)


def u64(*values: int) -> bytes:
    return struct.pack(f">{len(values)}Q", *values)


def strings(*values: str) -> bytes:
    return b"".join(value.encode() + b"\0" for value in values)


def blob(root: Node) -> bytes:
    names: dict[str, int] = {}
    table = bytearray()

    def node(entry: Node) -> bytes:
        name, properties, children = entry
        out = u32(1) + (name.encode() + b"\0").ljust(up(len(name) + 1, 4), b"\0")
        for key, value in properties:
            if key not in names:
                names[key] = len(table)
                table.extend(key.encode() + b"\0")
            out += u32(3, len(value), names[key]) + value.ljust(up(len(value), 4), b"\0")
        return out + b"".join(map(node, children)) + u32(2)

    body = node(root) + u32(9)
    total = 56 + len(body) + len(table)
    return u32(0xD00DFEED, total, 56, 56 + len(body), 40, 17, 16, 0, len(table), len(body)) + bytes(16) + body + bytes(table)


def head(vm: Slow, bootargs: str | None, base: int, gic: int, initrd: tuple[int, int] | None, rest: list[Node]) -> Node:
    chosen = [] if bootargs is None else [("bootargs", strings(bootargs))]
    if initrd is not None:
        chosen += [("linux,initrd-start", u64(initrd[0])), ("linux,initrd-end", u64(sum(initrd)))]
    cpus = [
        (f"cpu@{n}", [("reg", u32(n)), ("enable-method", strings("psci")), ("compatible", strings("arm,armv8")),
                      ("device_type", strings("cpu"))], [])
        for n in range(vm.cpus)
    ]  # fmt: skip
    psci = [("cpu_on", u32(0xC4000003)), ("cpu_off", u32(0x84000002)), ("method", strings("smc")),
            ("compatible", strings("arm,psci-1.0", "arm,psci-0.2", "arm,psci"))]  # fmt: skip
    top = [("compatible", strings("linux,dummy-virt")), ("model", strings("linux,dummy-virt-realm")), ("#address-cells", u32(2)),
           ("#size-cells", u32(2)), ("interrupt-parent", u32(gic))]  # fmt: skip
    return "", top, [
        ("chosen", chosen, []),
        (f"memory@{base:x}", [("device_type", strings("memory")), ("reg", u64(base, vm.ram))], []),
        ("cpus", [("#size-cells", u32(0)), ("#address-cells", u32(1))], cpus),
        ("psci", psci, []),
        *rest,
    ]  # fmt: skip


def timer(level: int) -> Node:
    return "timer", [("interrupts", u32(1, 13, level, 1, 14, level, 1, 11, level)), ("always-on", b""),
                     ("compatible", strings("arm,armv8-timer", "arm,armv7-timer"))], []  # fmt: skip


PMU: Node = ("pmu", [("interrupts", u32(1, 7, 4)), ("compatible", strings("arm,armv8-pmuv3"))], [])


def clock(phandle: int) -> Node:
    return "apb-pclk", [("phandle", u32(phandle)), ("clock-output-names", strings("clk24mhz")), ("clock-frequency", u32(24_000_000)),
                        ("#clock-cells", u32(0)), ("compatible", strings("fixed-clock"))], []  # fmt: skip


def interrupts(gic: int, regs: tuple[int, ...], its: tuple[int, int] | None) -> Node:
    children = []
    if its is not None:
        children = [(f"its@{its[1]:x}", [("phandle", u32(its[0])), ("reg", u64(its[1], 0x20000)), ("#msi-cells", u32(1)),
                                         ("msi-controller", b""), ("compatible", strings("arm,gic-v3-its"))], [])]  # fmt: skip
    return f"intc@{regs[0]:x}", [
        ("phandle", u32(gic)), ("reg", u64(*regs)), ("#redistributor-regions", u32(len(regs) // 2 - 1)),
        ("compatible", strings("arm,gic-v3")), ("ranges", b""), ("#size-cells", u32(2)), ("#address-cells", u32(2)),
        ("interrupt-controller", b""), ("#interrupt-cells", u32(3)),
    ], children  # fmt: skip


def kvmtool_tree(vm: Slow, initrd: tuple[int, int] | None, log: int | None) -> bytes:
    redistributors = vm.cpus * 0x20000
    gic = 0x3FFF0000 - redistributors
    msic: list[Node] = [("msic", [("compatible", strings("arm,gic-v3-its")), ("msi-controller", b""), ("phandle", u32(2)),
                                  ("reg", u64(gic - 0x20000, 0x20000))], [])]  # fmt: skip
    rest: list[Node] = [
        ("intc", [("compatible", strings("arm,gic-v3")), ("#interrupt-cells", u32(3)), ("interrupt-controller", b""),
                  ("reg", u64(0x3FFF0000, 0x10000, gic, redistributors)), ("phandle", u32(1)), ("#address-cells", u32(2)),
                  ("#size-cells", u32(2)), ("ranges", b"")], msic if vm.its else []),
    ]  # fmt: skip
    if log is not None:
        area = (f"event-log@{log:x}", [("compatible", strings("cc-event-log")), ("reg", u64(log, 0x10000))], [])
        rest.append(("reserved-memory", [("#address-cells", u32(2)), ("#size-cells", u32(2)), ("ranges", b"")], [area]))
    rest.append(timer(8))
    if vm.counters is not None:
        rest.append(PMU)
    for n in range(4):
        base = 0x1000000 + n * 0x1000
        rest.append((f"U6_16550A@{base:x}", [("compatible", strings("ns16550a")), ("reg", u64(base, 8)), ("interrupts", u32(0, n, 4)),
                                             ("clock-frequency", u32(1843200))], []))  # fmt: skip
    for n in range(vm.mmio):
        base = 0x3000000 + n * 0x200
        rest.append((f"virtio@{base:x}", [("compatible", strings("virtio,mmio")), ("reg", u64(base, 0x200)), ("dma-coherent", b""),
                                          ("interrupts", u32(0, 4 + n, 1))], []))  # fmt: skip
    rest.append(("rtc@1010000", [("compatible", strings("motorola,mc146818")), ("reg", u64(0x1010000, 2))], []))
    lines = b"".join(u32(slot << 11, 0, 0, 1, 1, 0, 0, 0, 64 + slot, 4) for slot in range(32))
    pci = [
        ("device_type", strings("pci")), ("#address-cells", u32(3)), ("#size-cells", u32(2)), ("dma-coherent", b""),
        ("bus-range", u32(0, 0)), ("compatible", strings("pci-host-ecam-generic")), ("reg", u64(0x40000000, 0x10000000)),
        ("ranges", u32(0x01000000, 0, 0, 0, 0, 0, 0x10000, 0x02000000, 0, 0x50000000, 0, 0x50000000, 0, 0x30000000)),
        ("interrupt-map", lines), ("interrupt-map-mask", u32(0xF800, 0, 0, 7)), ("#interrupt-cells", u32(1)),
    ]  # fmt: skip
    rest.append(("pci@40000000", pci + ([("msi-map", u32(0, 2, 0, 0x10000))] if vm.its else []), []))
    bootargs = " console=hvc0 root=/dev/vda rw " + (f" {vm.bootargs}" if vm.bootargs else "")
    return blob(head(vm, bootargs, 0x80000000, 1, initrd, rest)).ljust(65536, b"\0")


def qemu_high(vm: Slow) -> tuple[int, int, int, int]:
    top = max(up(0x40000000 + vm.ram, GIB) + up((vm.most or vm.ram) - vm.ram + vm.slots * GIB, GIB), 0x4000000000)
    places = []
    for size in (64 * MIB, 256 * MIB, 512 * GIB):
        places.append(up(top, size))
        top = places[-1] + size
    return places[0], places[1], places[2], top


def qemu_tree(vm: Slow, initrd: tuple[int, int] | None, log: int | None) -> bytes:
    redistributors, config, memory, _ = qemu_high(vm)
    gic = 0x8000 + vm.cpus + 1
    rest: list[Node] = [
        ("platform-bus@c000000", [("interrupt-parent", u32(gic)), ("ranges", u32(0, 0, 0x0C000000, 0x02000000)),
                                  ("#address-cells", u32(1)), ("#size-cells", u32(1)),
                                  ("compatible", strings("qemu,platform", "simple-bus"))], []),
    ]  # fmt: skip
    if log is not None:
        area = (f"event-log@{log:x}", [("reg", u64(log, 0x10000)), ("compatible", strings("cc-event-log"))], [])
        rest.append(("reserved-memory", [("ranges", b""), ("#size-cells", u32(2)), ("#address-cells", u32(2))], [area]))
    rest.append(("fw-cfg@9020000", [("dma-coherent", b""), ("reg", u64(0x9020000, 0x18)), ("compatible", strings("qemu,fw-cfg-mmio"))], []))
    for n in range(32):
        base = 0xA000000 + n * 0x200
        rest.append((f"virtio_mmio@{base:x}", [("dma-coherent", b""), ("interrupts", u32(0, 16 + n, 1)), ("reg", u64(base, 0x200)),
                                               ("compatible", strings("virtio,mmio"))], []))  # fmt: skip
    lines = b"".join(
        u32(slot << 11, 0, 0, pin + 1, gic, 0, 0, 0, 3 + (pin + slot) % 4, 4) for slot in range(4) for pin in range(4)
    )  # fmt: skip
    ranges = u32(0x01000000, 0, 0, 0, 0x3EFF0000, 0, 0x10000, 0x02000000, 0, 0x10000000, 0, 0x10000000, 0, 0x2EFF0000, 0x03000000)
    ranges += u64(memory, memory) + u32(0x80, 0)
    rest.append(("pcie@10000000", [
        ("interrupt-map", lines), ("interrupt-map-mask", u32(0x1800, 0, 0, 7)), ("#interrupt-cells", u32(1)), ("ranges", ranges),
        ("reg", u64(config, 0x10000000)), *([("msi-map", u32(0, gic + 1, 0, 0x10000))] if vm.its else []), ("dma-coherent", b""),
        ("bus-range", u32(0, 0xFF)), ("linux,pci-domain", u32(0)), ("#size-cells", u32(2)), ("#address-cells", u32(3)),
        ("device_type", strings("pci")), ("compatible", strings("pci-host-ecam-generic")),
    ], []))  # fmt: skip
    rest.append(("pl031@9010000", [("clock-names", strings("apb_pclk")), ("reg", u64(0x9010000, 0x1000)), ("clocks", u32(0x8000)),
                                   ("interrupts", u32(0, 2, 4)), ("compatible", strings("arm,pl031", "arm,primecell"))], []))  # fmt: skip
    rest.append(("pl011@9000000", [("clock-names", strings("uartclk", "apb_pclk")), ("reg", u64(0x9000000, 0x1000)),
                                   ("clocks", u32(0x8000, 0x8000)), ("interrupts", u32(0, 1, 4)),
                                   ("compatible", strings("arm,pl011", "arm,primecell"))], []))  # fmt: skip
    if vm.counters is not None:
        rest.append(PMU)
    regs = (0x8000000, 0x10000, 0x80A0000, 0xF60000, *((redistributors, 0x4000000) if vm.cpus > 123 else ()))
    rest += [interrupts(gic, regs, (gic + 1, 0x8080000) if vm.its else None), timer(4), clock(0x8000)]
    return blob(head(vm, vm.bootargs, 0x40000000, gic, initrd, rest))


def cloud_hypervisor_tree(vm: Slow, initrd: tuple[int, int] | None) -> bytes:
    size = vm.cpus * 0x20000
    base = 0x8FF0000 - size
    rest: list[Node] = [
        interrupts(1, (0x8FF0000, 0x10000, base, size), (2, base - 0x20000)), timer(4), PMU, clock(3),
        ("pl031@9010000", [("clock-names", strings("apb_pclk")), ("reg", u64(0x9010000, 0x1000)), ("clocks", u32(3)),
                           ("interrupts", u32(0, 8, 4)), ("compatible", strings("arm,pl031", "arm,primecell"))], []),
    ]  # fmt: skip
    if vm.serial:
        rest.append(("pl011@9000000", [("clock-names", strings("apb_pclk")), ("reg", u64(0x9000000, 0x1000)), ("clocks", u32(3)),
                                       ("interrupts", u32(0, 11, 1)),
                                       ("compatible", strings("arm,pl011", "arm,primecell"))], []))  # fmt: skip
    ranges = u32(0x01000000, 0, 0, 0, 0x09050000, 0, 0x10000, 0x02000000, 0, 0x10000000, 0, 0x10000000, 0, 0x20000000)
    ranges += u32(0x03000000, 2, 0, 2, 0, 0x3FFD, 0)
    rest.append(("pcie@30000000", [
        ("ranges", ranges), ("reg", u64(0x30000000, 0x100000)), ("msi-map", u32(0, 2, 0, 0x100)), ("dma-coherent", b""),
        ("bus-range", u32(0, 0)), ("linux,pci-domain", u32(0)), ("#size-cells", u32(2)), ("#address-cells", u32(3)),
        ("device_type", strings("pci")), ("compatible", strings("pci-host-ecam-generic")),
    ], []))  # fmt: skip
    return blob(head(vm, vm.bootargs, 0x40000000, 1, initrd, rest))


def kernel_fields(kernel: bytes) -> tuple[int, int]:
    """text_offset and image_size."""
    return struct.unpack_from("<QQ", kernel, 8)


@dataclass(frozen=True)
class Built:
    """Where everything lies, and the tree."""

    base: int
    s2sz: int
    data: list[tuple[int, bytes]]
    tree: bytes
    pc: int
    x0: int
    log: int | None


def build(vm: Slow) -> Built:
    return {"kvmtool": _kvmtool, "qemu": _qemu, "cloud-hypervisor": _cloud_hypervisor}[vm.vmm](vm)


def _kvmtool(vm: Slow) -> Built:
    base, end = 0x80000000, 0x80000000 + vm.ram
    limit = min(end, 0x90000000)
    log = limit - 65536 if vm.log else None
    tree_at = up(limit - (65536 if vm.log else 0) - 65536 - 2 * MIB, 2 * MIB)
    data, initrd, pc = [], None, 0
    if "kernel" in vm.images:
        pc = base + kernel_fields(vm.images["kernel"])[0]
        data.append((pc, vm.images["kernel"]))
    if "firmware" in vm.images:
        pc = base if vm.firmware_at is None else vm.firmware_at
        data.append((pc, vm.images["firmware"]))
    if "initrd" in vm.images:
        size = len(vm.images["initrd"])
        initrd = (up(tree_at - (size + 4), 4), size)
        data.append((initrd[0], vm.images["initrd"]))
    tree = kvmtool_tree(vm, initrd, log)
    return Built(base, max(32, (end - 1).bit_length()) + 1, [*data, (tree_at, tree)], tree, pc, tree_at, log)


def _qemu(vm: Slow) -> Built:
    base, initrd, data = 0x40000000, None, []
    kernel_at, memory = base, 0
    if "kernel" in vm.images:
        offset, memory = kernel_fields(vm.images["kernel"])
        kernel_at = base + offset
    initrd_at = up(max(base + min(vm.ram // 2, 128 * MIB), kernel_at + memory), PAGE)
    if "initrd" in vm.images:
        initrd = (initrd_at, len(vm.images["initrd"]))
    tree_at, pc, x0 = base, base, base
    if "firmware" in vm.images:
        data, pc, x0 = [(0, vm.images["firmware"])], 0, 0
    elif "kernel" in vm.images:
        data = [(kernel_at, vm.images["kernel"])] + ([(initrd_at, vm.images["initrd"])] if initrd else [])
        tree_at = x0 = up(initrd_at + (initrd[1] if initrd else 0), 2 * MIB)
        pc = kernel_at
    log = tree_at + MIB if vm.log else None
    tree = qemu_tree(vm, initrd, log)
    return Built(base, (qemu_high(vm)[3] - 1).bit_length() + 1, [*data, (tree_at, tree)], tree, pc, x0, log)


def _cloud_hypervisor(vm: Slow) -> Built:
    base, initrd, data, pc = 0x40000000, None, [], 0x40400000
    if "kernel" in vm.images:
        pc += kernel_fields(vm.images["kernel"])[0]
        data.append((pc, vm.images["kernel"]))
    if "initrd" in vm.images:
        size = len(vm.images["initrd"])
        initrd = (base + vm.ram - up(size, PAGE), size)
        data.append((initrd[0], vm.images["initrd"]))
    tree = cloud_hypervisor_tree(vm, initrd)
    return Built(base, min(48, vm.ipa_limit), [*data, (base, tree)], tree, pc, base, None)


class Chain:
    """The RIM, one descriptor after the other."""

    def __init__(self, vm: Slow, s2sz: int) -> None:
        self._name, self._rmm, self._s2sz = vm.hash, vm.rmm, s2sz
        flags = (1 if vm.lpa2 else 0) | (2 if vm.sve else 0) | (4 if vm.counters is not None else 0)
        code = {"sha256": 0, "sha512": 1, "sha384": 2}[vm.hash]
        fields = (flags, s2sz, vm.sve // 128 - 1 if vm.sve else 0, vm.bps - 1, vm.wps - 1, vm.counters or 0, code)
        self.rim = self._digest(struct.pack("<7Q", *fields).ljust(PAGE, b"\0"))

    def _digest(self, data: bytes) -> bytes:
        return hashlib.new(self._name, data).digest().ljust(64, b"\0")

    def _extend(self, kind: int, rest: bytes) -> None:
        self.rim = self._digest((struct.pack("<QQ", kind, 0x100) + self.rim + rest).ljust(256, b"\0"))

    def ripas(self, base: int, top: int) -> None:
        if self._rmm == "2.0":
            return
        bits = self._s2sz - 12
        levels = -(-bits // 9)
        levels -= levels > 1 and bits - 9 * (levels - 1) <= 4
        while base < top:
            size = max(PAGE * 512**n for n in range(levels) if base % (PAGE * 512**n) == 0 and base + PAGE * 512**n <= top)
            self._extend(2, struct.pack("<QQ", base, base + size))
            base += size

    def data(self, base: int, content: bytes) -> None:
        start = base // PAGE * PAGE
        padded = bytes(base - start) + content
        for at in range(0, len(padded), PAGE):
            self._extend(0, struct.pack("<QQ", start + at, 1) + self._digest(padded[at : at + PAGE].ljust(PAGE, b"\0")))

    def unmeasured(self, base: int, size: int) -> None:
        for at in range(base, base + size, PAGE):
            self._extend(0, struct.pack("<QQ", at, 0))

    def rec(self, pc: int, x0: int) -> None:
        page = bytearray(PAGE)
        struct.pack_into("<Q", page, 0, 1)
        struct.pack_into("<QQ", page, 0x200, pc, 0)
        struct.pack_into("<Q", page, 0x300, x0)
        self._extend(1, self._digest(bytes(page)))


def measure(vm: Slow) -> tuple[str, str]:
    """Return the RIM as long as the digest, and the SHA-256 of the tree as loaded, both in hex."""
    built = build(vm)
    chain = Chain(vm, built.s2sz)
    chain.ripas(built.base, built.base + vm.ram)
    for base, content in sorted(built.data):
        chain.data(base, content)
    chain.rec(built.pc, built.x0)
    if built.log is not None:
        chain.unmeasured(built.log, 65536)
    return chain.rim[: hashlib.new(vm.hash).digest_size].hex(), hashlib.sha256(built.tree).hexdigest()
