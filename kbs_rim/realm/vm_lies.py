"""Lies that a host tells by building another VM than the one it promised. Each function changes the script, nothing else."""

from collections.abc import Iterable
from dataclasses import replace

from kbs_rim.realm.failures import SimulationFailed
from kbs_rim.realm.host_script import DEVICE_TREE, INITRD, HostScript, Load, LogRange
from kbs_rim.realm.rim_model import PAGE, RecParams

_TWO_MIB = 2 * 1024 * 1024
_HOSTILE_PAGE = b"what the host likes".ljust(PAGE, b"\xcc")
_FORGED_TREE = bytes.fromhex("d00dfeed") + b"a device tree that nobody measured"


def _with_loads(script: HostScript, loads: Iterable[Load]) -> HostScript:
    return replace(script, loads=tuple(loads))


def _change(script: HostScript, name: str, data: bytes) -> HostScript:
    return _with_loads(script, (replace(load, data=data) if load.name == name else load for load in script.loads))


def _flipped(data: bytes | memoryview, position: int) -> bytes:
    changed = bytearray(data)
    changed[position] ^= 0x01
    return bytes(changed)


def _first_rec(script: HostScript, rec: RecParams) -> HostScript:
    return replace(script, recs=(rec, *script.recs[1:]))


def tamper_with_entry_image(script: HostScript) -> HostScript:
    """Change one byte in the middle of the kernel or firmware."""
    image = script.entry_image
    return _change(script, image.name, _flipped(image.data, len(image.data) // 2))


def forge_device_tree(script: HostScript) -> HostScript:
    """Change the last byte of the device tree."""
    tree = script.load(DEVICE_TREE)
    return _change(script, tree.name, _flipped(tree.data, len(tree.data) - 1))


def move_pc(script: HostScript) -> HostScript:
    """Start one page behind the entry point."""
    first = script.recs[0]
    return _first_rec(script, replace(first, pc=first.pc + PAGE))


def point_x0_into_log(script: HostScript) -> HostScript:
    """Put a forged device tree behind the log and let x0 point to it."""
    if script.log_area is None:
        raise SimulationFailed("this lie needs a log area")
    first, area = script.recs[0], script.log_area
    offset = area.size // 2
    forged = replace(area, content=bytes(offset) + _FORGED_TREE)
    script = _first_rec(script, replace(first, gprs=(area.base + offset, *first.gprs[1:])))
    return replace(script, log_area=forged)


def unmeasure(script: HostScript, name: str) -> HostScript:
    """Populate an image without measuring it, with the host's bytes in it."""
    image = script.load(name)
    changed = replace(image, data=_flipped(image.data, len(image.data) // 2), measured=False)
    return _with_loads(script, (changed if load.name == name else load for load in script.loads))


def unmeasure_one_page(script: HostScript) -> HostScript:
    """Replace one page of the kernel or firmware by an unmeasured one."""
    image = script.entry_image
    page = (image.base + len(image.data) // 2) // PAGE * PAGE
    changed = replace(image, unmeasured_pages={page: _HOSTILE_PAGE})
    return _with_loads(script, (changed if load.name == image.name else load for load in script.loads))


def log_area_over_initrd(script: HostScript) -> HostScript:
    """Load no initrd; put the log area where the device tree says that it is."""
    initrd, area = script.load(INITRD), script.log_area
    if area is None:
        raise SimulationFailed("this lie needs a log area")
    base = initrd.base // PAGE * PAGE
    moved = LogRange(base, area.size, bytes(initrd.base - base) + b"an initrd that nobody measured")
    if any(base < load.top and load.base < base + area.size for load in script.loads if load.name != INITRD):
        moved = replace(moved, size=PAGE)
    script = _with_loads(script, (load for load in script.loads if load.name != INITRD))
    return replace(script, log_area=moved)


def entry_image_as_log(script: HostScript) -> HostScript:
    """Populate the kernel or firmware as if it were the log, and let there be no other log area."""
    image = script.entry_image
    size = -(-image.top // PAGE) * PAGE - image.base // PAGE * PAGE
    area = LogRange(image.base // PAGE * PAGE, size, bytes(image.base % PAGE) + bytes(image.data))
    script = _with_loads(script, (load for load in script.loads if load.name != image.name))
    return replace(script, log_area=area)


def add_runnable_rec(script: HostScript) -> HostScript:
    """Create one more vCPU that may run, starting in the middle of the kernel or firmware."""
    image = script.entry_image
    pc = image.base + len(image.data) // 2 // 4 * 4
    return replace(script, recs=(*script.recs, RecParams(1, pc, script.recs[0].gprs)))


def overlap_images(script: HostScript) -> HostScript:
    """Move the initrd (or device tree) into the last page of the kernel or firmware; the RMM takes that page once."""
    image = script.entry_image
    names = {load.name for load in script.loads}
    victim = script.load(INITRD if INITRD in names else DEVICE_TREE)
    page = (image.top - 1) // PAGE * PAGE
    moved = replace(victim, base=page, left_out=frozenset({page}))
    return _with_loads(script, (moved if load.name == victim.name else load for load in script.loads))


def load_entry_image_twice(script: HostScript) -> HostScript:
    """Load the kernel or firmware again at the first free place of RAM."""
    image = script.entry_image
    taken = [(load.base, load.top) for load in script.loads]
    if script.log_area is not None:
        taken.append((script.log_area.base, script.log_area.base + script.log_area.size))
    base = _free_place(script.ram, len(image.data), taken)
    return _with_loads(script, (*script.loads, Load("BLOB", base, image.data)))


def hide_a_page(script: HostScript) -> HostScript:
    """Measure a page that the log does not tell of, into the first free place of RAM."""
    taken = [(load.base, load.top) for load in script.loads]
    if script.log_area is not None:
        taken.append((script.log_area.base, script.log_area.base + script.log_area.size))
    return replace(script, hidden_pages={_free_place(script.ram, PAGE, taken): _HOSTILE_PAGE})


def _free_place(ram: tuple[int, int], size: int, taken: list[tuple[int, int]]) -> int:
    base, end = ram[0], ram[0] + ram[1]
    while base + size <= end:
        blocking = [top for low, top in taken if low < base + size and base < top]
        if not blocking:
            return base
        base = -(-max(blocking) // _TWO_MIB) * _TWO_MIB
    raise SimulationFailed("no room in RAM for this lie")
