"""Looking for a RIM among the VMs of a definition, where no log came: VMs in a second, beside bare hash chains.

The floor is what a search would cost that hashes every VM from its start: one hash of a chain step's size for each granule, in a loop of
hashlib. Ours shares what VMs have in common, and adds layouts, device trees and lookups. ``work`` is in chain
steps, of which one appraisal may spend ``limits.replay_granules``. Prints; judges nothing.
"""

import hashlib
import sys
import time

from kbs_rim.appraisal.definition_search import DefinitionSearch, SearchOutcome, SignedRealm
from kbs_rim.appraisal.definition_space import choices_of
from kbs_rim.appraisal.derived_boot import BootDeriver
from kbs_rim.appraisal.registered_image import ImageSet, ImageState, RegisteredImage
from kbs_rim.appraisal.replay_rules import allowed_dialects
from kbs_rim.appraisal.workload import Role, Workload, parse_workload
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.limits import DEFAULT_LIMITS, GRANULE_SIZE, MIB
from kbs_rim.measurement.chain_kernel import in_use
from kbs_rim.measurement.image import measure_image
from kbs_rim.measurement.replay import ReplayWork, replay_rim
from kbs_rim.services.replay_cache import RimCache

KERNEL_BYTES, INITRD_BYTES = 32 * MIB, 32 * MIB
STEP_BYTES = 256
FLOOR_STEPS = 100_000
SPACES: dict[str, dict[str, object]] = {
    "16 vCPUs": {"cpus": ["1-16"]},
    "16 vCPUs x 8 sizes of RAM": {"cpus": ["1-16"], "ram": ["0x40000000-0x200000000/0x40000000"]},
    "the same x SVE x PMU": {
        "cpus": ["1-16"],
        "ram": ["0x40000000-0x200000000/0x40000000"],
        "sve_vector_bits": ["off", 2048],
        "pmu_counters": ["off", 6],
    },
    "16 vCPUs, trees of QEMU 10.0": {"cpus": ["1-16"], "device_trees": ["qemu-10.0"], "host_address_bits": 48},
}
LEAST = {"vmm": "qemu", "without_log": True, "cpus": [1], "ram": [1 << 30], "breakpoints": [6], "watchpoints": [4], "max_candidates": 4096}


def images() -> dict[str, RegisteredImage]:
    """A kernel and an initrd."""
    header = bytearray(64)
    header[16:24] = (KERNEL_BYTES + 2 * MIB).to_bytes(8, "little")
    header[56:60] = b"ARMd"
    block = hashlib.shake_128(b"block").digest(MIB)
    kernel = bytes(header) + (block * (KERNEL_BYTES // MIB))[64:]
    measured = {"kernel": measure_image(kernel), "initrd": measure_image(block * (INITRD_BYTES // MIB))}
    return {role: RegisteredImage(image.image_id, role, (Role(role),), ImageState.ACTIVE, image) for role, image in measured.items()}


def workload_of(known: dict[str, RegisteredImage], space: dict[str, object]) -> Workload:
    """A workload with this space."""
    return parse_workload({
        "name": "bench",
        "images": [{"role": role, "images": [image.id]} for role, image in known.items()],
        "memory": {"base": 0x40000000, "size": {"min": 0, "max": 1 << 40}},
        "device_tree": {"mode": "rules", "pack": "qemu-virt"},
        "parameters": {"ipa_bits": {"min": 32, "max": 52}},
        "definition": {**LEAST, **space},
    })  # fmt: skip


def search(workload: Workload, known: ImageSet, rim: bytes, work: ReplayWork) -> tuple[float, SearchOutcome]:
    """Seconds, and what was found."""
    realm = SignedRealm(rim=rim, algorithm=HashAlgorithm.SHA256, platform=b"machine", vouched_for=True)
    start = time.perf_counter()
    found = DefinitionSearch(realm, known, work, DEFAULT_LIMITS, permits=None, at=0).find(workload, 1, allowed_dialects(workload))
    return time.perf_counter() - start, found


def floor() -> float:
    """Seconds for one chain step of hashlib."""
    value, rest = bytes(32), bytes(STEP_BYTES - 32)
    start = time.perf_counter()
    for _ in range(FLOOR_STEPS):
        value = hashlib.sha256(value + rest).digest()
    return (time.perf_counter() - start) / FLOOR_STEPS


def main() -> None:
    """Search for a RIM that nothing gives, which costs the most, and for the last VM twice."""
    known = images()
    registered = ImageSet(known.values())
    per_vm = (KERNEL_BYTES + INITRD_BYTES) // GRANULE_SIZE
    step = floor()
    total = (KERNEL_BYTES + INITRD_BYTES) // MIB
    print(f"{total} MiB of images, SHA-256, {in_use().name} kernel, Python {sys.version.split()[0]}; all dialects that are usual are tried")
    print(f"floor: {1 / step / per_vm:.1f} VMs/s, one dialect each, every VM hashed from its start")
    print(f"{'space':34} {'VMs':>5} {'tried':>6} {'s':>7} {'VMs/s':>7} {'to floor':>9} {'work':>12}")
    for name, space in SPACES.items():
        workload = workload_of(known, space)
        work = ReplayWork(DEFAULT_LIMITS.replay_granules)
        seconds, found = search(workload, registered, bytes(32), work)
        tried = found.facts["tried"]
        rate = tried / seconds
        print(f"{name:34} {found.facts['vms']:5} {tried:6} {seconds:7.2f} {rate:7.1f} {rate * step * per_vm:9.1f} {work.spent:12}")
    memo = RimCache(DEFAULT_LIMITS).as_of(1)
    workload = workload_of(known, SPACES["16 vCPUs"])
    rim = last_rim(workload, registered)
    for what in ("found first", "remembered", "remembered, RIM known"):
        seconds, found = search(workload, registered, rim, ReplayWork(DEFAULT_LIMITS.replay_granules, memo))
        print(f"{what:34} {found.facts['vms']:5} {found.facts['tried']:6} {seconds:7.3f}")


def last_rim(workload: Workload, registered: ImageSet) -> bytes:
    """The RIM of the last VM of a definition."""
    definition = workload.definition
    if definition is None:
        raise ValueError("the workload defines no VM")
    choice = choices_of(workload, definition)[-1]
    boot = BootDeriver(definition, workload.entry.role, registered, DEFAULT_LIMITS).derive(choice, HashAlgorithm.SHA256)
    return replay_rim(boot.plan, registered.with_supplied(boot.tree.image if boot.tree else None), allowed_dialects(workload)[0])


if __name__ == "__main__":
    main()
