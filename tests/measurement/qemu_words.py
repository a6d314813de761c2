"""Words of QEMU command lines, drawn at random; for the tests that two readers of one command line agree."""

import random

MACHINE = (
    "virt", "virt-9.1", "virt-10.0", "type=virt", "gic-version=3", "gic-version=host", "gic-version=max", "gic-version=2",
    "gic-version=4", "its=on", "its=off", "its=auto", "its=yes", "its=maybe", "acpi=on", "acpi=off", "acpi=auto",
    "confidential-guest-support=rme0", "usb=off", "dump-guest-core=off", "memory-backend=ram", "highmem=on", "highmem=off", "secure=off",
    "secure=on", "virtualization=off", "mte=off", "dtb-randomness=off", "kernel=K", "initrd=I", "append=from machine", "firmware=F",
    "kernel-irqchip=on", "accel=kvm", "accel=tcg", "ras=on", "compact-highmem=on", "compact-highmem=off", "phandle-start=0x100",
    "iommu=smmuv3", "iommu=none", "nvdimm=off", "pflash0=a", "dtb=t", "graphics=off", "bogus=1", "its", "hmat=off",
    "default-bus-bypass-iommu=on", "msi=gicv2m", "cxl=off", "smp.cpus=3", "hwrandom=on", "highmem-mmio-size=1T", "boot.strict=on",
    "suppress-vmdesc=on", "dumpdtb=x", "x-oem-id=A",
)  # fmt: skip
CPU = (
    "host", "max", "host,pmu=on", "host,pmu=off", "host,pmu=auto", "pmu=on", "host,sve=off", "host,sve=on", "max,sve512=on,sve=on",
    "host,sve256=off", "host,sve7=on", "host,sve4096=off", "host,num-breakpoints=4,num-watchpoints=4", "host,num-pmu-counters=2",
    "cortex-a57", "host,aarch64=off", "host,kvm-steal-time=on", "host,bogus=on", "host,pauth=off", "host,lpa2=on", "max,host",
    "host,sve=auto", "host,sve128=on", "host,sme=off",
)  # fmt: skip
SMP = (
    "1", "2", "4", "5,cores=2", "2,maxcpus=2", "2,maxcpus=4", "cpus=3", "sockets=2", "cores=2,threads=2", "8,sockets=2",
    "2,sockets=2,cores=1,threads=1", "cores=2,4", "4,clusters=2", "dies=1,cpus=2", "dies=2", "16,sockets=2,clusters=2,cores=2,threads=2",
    "maxcpus=8,cores=2", "0", "x", "600", "2,bogus=1", "", "modules=1,sockets=3", "1,,2", "cpus=0x2",
)  # fmt: skip
MEMORY = (
    "512", "1G", "512M", "1g", "1.5G", "size=2097152k", "size=1G,maxmem=4G,slots=2", "1G,slots=2", "1G,maxmem=512M", "maxmem=2G",
    "slots=1,maxmem=8G", "1G,512M", "1000000k", "0x40000000", "", "512MB", "1G,bogus=1", "1G,maxmem=1G", "1025K", "4097B", "1M", "300G",
    "1G,slots=300,maxmem=4G",
)  # fmt: skip
OBJECTS = (
    "rme-guest,id=rme0", "rme-guest,id=rme0,measurement-log=on", "rme-guest,id=r,measurement-algorithm=sha256,measurement-log=off",
    '{"qom-type":"rme-guest","id":"lsec0","measurement-log":true}', '{"qom-type":"memory-backend-ram","id":"ram","size":1073741824}',
    "memory-backend-ram,id=ram,size=1G", "sev-guest,id=s", "secret,id=x,data=y", "rme-guest,bogus=1", "rme-guest,measurement-log=maybe",
    "rme-guest,measurement-log=on,measurement-log=off", "iothread,id=i", "memory-backend-memfd,id=ram,size=junk", '{"id":"x"}', "{",
)  # fmt: skip
DEVICES = (
    "virtio-net-pci,netdev=n", "virtio-blk-pci,drive=d", '{"driver":"pcie-root-port","id":"p","addr":"0x1"}', "virtconsole", "acme-card",
    "virtio-iommu-pci", "virtio-iommu-pci,addr=5", "tpm-tis-device,tpmdev=t", "pc-dimm,id=d", "virtio-mem-pci,id=m", "pxb-pcie,id=x",
    "ramfb", "arm-smmuv3", "vfio-pci,host=1", "nvdimm", "guest-loader,addr=0x1", "loader,file=x", "cpu-plug-cpu", "{",
)  # fmt: skip
OTHERS = (
    ("-kernel", "Image"), ("-initrd", "initrd"), ("-append", "quiet splash"), ("-append", ""), ("-bios", "EFI.fd"), ("-kernel=Image",),
    ("-append", "a,b=c"), ("-enable-kvm",), ("-accel", "kvm"), ("-accel", "tcg"), ("-accel", "hvf"), ("-nographic",), ("-nodefaults",),
    ("-serial", "stdio"), ("-serial", "none"), ("-dtb", "t"), ("-numa", "node"), ("-drive", "if=virtio,file=x"),
    ("-drive", "if=pflash,file=x"), ("-pflash", "x"), ("-no-acpi",), ("-global", "virtio-mmio.force-legacy=off"),
    ("-global", "host-arm-cpu.pmu=off"), ("-readconfig", "x"), ("-set", "a.b.c=d"), ("-incoming", "defer"), ("-loadvm", "s"),
    ("-tpmdev", "passthrough,id=t"), ("-frobnicate",), ("disk.img",), ("-name", "guest=r1"), ("-display", "none"), ("-S",),
    ("-nographic=1",), ("--kernel", "Image"), ("-boot", "strict=on"), ("-append",),
)  # fmt: skip


def draw(chance: random.Random) -> list[str]:
    """Return a command line of up to nine options. Half of them begin with what a realm needs."""
    words: list[str] = []
    if chance.random() < 0.5:
        words += ["-M", "virt,gic-version=3", "-object", "rme-guest,id=r", "-cpu", "host"]
    for _ in range(chance.randint(0, 7)):
        kind = chance.randrange(8)
        if kind == 0:
            words += [chance.choice(("-M", "-machine", "--machine")), ",".join(chance.sample(MACHINE, chance.randint(1, 3)))]
        elif kind <= 4:
            name, values = ((), ("-cpu", CPU), ("-smp", SMP), ("-m", MEMORY), ("-object", OBJECTS))[kind]
            words += [f"{name}={chance.choice(values)}"] if chance.random() < 0.2 else [name, chance.choice(values)]
        elif kind == 5:
            words += ["-device", chance.choice(DEVICES)]
        else:
            words += chance.choice(OTHERS)
    return words
