"""Applies a profile's placement rules: from a request to where everything lies in the guest's memory."""

from collections.abc import Mapping
from dataclasses import dataclass

from kbs_rim.measurement.vmm.profile import GIB, Region, VmRequest, refuse, up
from kbs_rim.measurement.vmm.vmm_profile import BootFlow, PlacementRule, VmmProfile


@dataclass(frozen=True, slots=True)
class MemoryMap:
    """Where everything is. ``things`` has the images that are there, the log area and the device tree (size 0 until it is made)."""

    ram: Region
    things: Mapping[str, Region]
    devices: Mapping[str, Region]
    landmarks: Mapping[str, int]
    flow: BootFlow


def lay_out(profile: VmmProfile, request: VmRequest) -> MemoryMap:
    """Return the memory map of a VM; raises ``InvalidDocument`` (``document.vm``) if the VMM has no such VM."""
    _check_features(profile, request)
    flow = profile.flows.get(request.boot)
    if flow is None:
        raise refuse(f"how {profile.name} starts {request.boot} is not known")
    ram = Region(profile.ram_base, request.ram_size)
    if request.ram_size % profile.ram_step:
        raise refuse(f"{profile.name} takes RAM in steps of {profile.ram_step} bytes")
    landmarks = _fixed_landmarks(profile, request, ram)
    things: dict[str, Region] = {}
    for rule in flow.places:
        if rule.thing == "log" and not request.measurement_log:
            continue
        size = _size_of(rule.thing, profile, request)
        region = Region(_base(rule, size or 0, request, landmarks), size or 0)
        landmarks[f"{rule.thing}.base"], landmarks[f"{rule.thing}.end"] = region.base, region.end
        if rule.thing == "kernel":
            header = request.kernel_header
            landmarks["kernel.memory-end"] = region.base + (header.image_size if header else 0)
        if size is not None:
            things[rule.thing] = region
    _check_firmware(profile, ram, things.get("firmware"))
    return MemoryMap(ram, things, device_regions(profile, request, ram), landmarks, flow)


def ipa_bits_of(profile: VmmProfile, memory: MemoryMap, ipa_limit: int) -> int:
    """Return how many IPA bits the VMM asks for, the unprotected half included."""
    if profile.ipa_bits is not None:
        return min(profile.ipa_bits, ipa_limit)
    top = max([memory.ram.end, *(memory.devices[name].end for name, _ in profile.high_regions)])
    return max(profile.ipa_floor, (top - 1).bit_length()) + 1


def _check_features(profile: VmmProfile, request: VmRequest) -> None:
    asked = {
        "hotplug": (request.ram_max is not None or request.hotplug_slots > 0, "has no memory hotplug"),
        "movable-firmware": (request.firmware_base is not None, "cannot move its firmware; kvmtool can"),
        "virtio-mmio": (request.virtio_mmio > 0, "does not let one choose the number of virtio-mmio devices; kvmtool does"),
        "lone-initrd": (request.initrd_size is not None and request.kernel_size is None, "loads an initrd only with a kernel"),
        "log": (request.measurement_log, "writes no measurement log"),
    }
    for feature, (wanted, problem) in asked.items():
        if wanted and feature not in profile.features:
            raise refuse(f"{profile.name} {problem}")


def _fixed_landmarks(profile: VmmProfile, request: VmRequest, ram: Region) -> dict[str, int]:
    return {
        "zero": 0,
        "ram.base": ram.base,
        "ram.middle": ram.base + min(ram.size // 2, profile.ram_middle),
        "ram.low-end": ram.end if profile.ram_low_end is None else min(ram.end, profile.ram_low_end),
        "ram.end": ram.end,
        "firmware.wanted": ram.base if request.firmware_base is None else request.firmware_base,
    }


def _size_of(thing: str, profile: VmmProfile, request: VmRequest) -> int | None:
    sizes = {
        "kernel": request.kernel_size,
        "initrd": request.initrd_size,
        "firmware": request.firmware_size,
        "device-tree": profile.tree_size or 0,
        "log": profile.log_size,
    }
    return sizes[thing]


def _base(rule: PlacementRule, size: int, request: VmRequest, landmarks: Mapping[str, int]) -> int:
    known = [landmarks[name] for name in rule.of if name in landmarks]
    if not known:
        raise refuse(f"the profile places {rule.thing} {rule.rule} {' or '.join(rule.of)}, and none of them exists yet")
    if rule.rule == "above":
        return up(max(known), rule.align)
    if rule.rule == "below":
        base = up(min(known) - size - rule.slack, rule.align)
        if base < 0:
            raise refuse(f"{rule.thing} does not fit into the RAM")
        return base
    header = request.kernel_header
    return known[0] + rule.offset + (header.text_offset if rule.text_offset and header else 0)


def device_regions(profile: VmmProfile, request: VmRequest, ram: Region) -> dict[str, Region]:
    """Return where the devices are, those that float above the RAM included."""
    devices = dict(profile.regions)
    hotplug = (request.ram_max or request.ram_size) - request.ram_size + request.hotplug_slots * GIB
    top = max(up(ram.end, GIB) + up(hotplug, GIB), profile.high_base)
    for name, size in profile.high_regions:
        devices[name] = Region(up(top, size), size)
        top = devices[name].end
    return devices


def _check_firmware(profile: VmmProfile, ram: Region, firmware: Region | None) -> None:
    if firmware is None:
        return
    room = profile.firmware_room or ram
    if profile.firmware_room is not None and firmware.size > room.size:
        raise refuse(f"firmware has at most {room.size} bytes")
    if not room.base <= firmware.base <= firmware.end <= room.end:
        raise refuse("firmware does not fit into the RAM")
