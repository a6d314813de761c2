"""The workload of a realm that is started from an IGVM file, where there can be one.

A file lists pages; a workload speaks of images. Pages that follow one another become one image, cut where the first vCPU begins and where
x0 points to. What the host fills in is not measured, and no workload lets it in (docs/security.md).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kbs_rim.appraisal.workload import Workload, parse_workload
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.measurement.device_tree_blob import MAGIC_BYTES
from kbs_rim.measurement.igvm_launch import IgvmLaunch, IgvmRun
from kbs_rim.measurement.image import ImageMeasurements, measure_image, read_arm64_header
from kbs_rim.measurement.rmm import RealmCreate, RimChain, RmmVersion
from kbs_rim.measurement.vmm.profile import Region
from kbs_rim.workload_sources.subject import refuse_draft


@dataclass(frozen=True, slots=True)
class IgvmImage:
    """An image that the file holds, with its role and where it goes."""

    role: str
    base: int
    measurements: ImageMeasurements = field(repr=False)


@dataclass(frozen=True, slots=True)
class IgvmDraft:
    """The workload as written, with every default, and the images to register."""

    document: Mapping[str, Any]
    workload: Workload
    images: tuple[IgvmImage, ...]


def igvm_rim(launch: IgvmLaunch, params: RealmCreate) -> bytes:
    """Return the RIM under RMM 2.0, which measures no RAM ranges: those are not in a file."""
    chain = RimChain(RmmVersion.V2_0, params)
    for operation in launch.operations(params.hash_algorithm):
        chain.apply(operation)
    return chain.value


def draft_igvm(launch: IgvmLaunch, name: str, ram: Region, description: str = "") -> IgvmDraft:
    """Return the workload for a file whose realm has this RAM.

    Raises ``InvalidDocument`` (``document.workload-draft``) that says which of the rules that no workload switches off the file breaks.
    """
    pc, x0 = _entry(launch)
    images = _images(launch, pc, x0)
    policy = launch.policy
    entry = next(image.role for image in images if image.base == pc)
    document: dict[str, Any] = {"name": name}
    document |= {"description": description} if description else {}
    document |= {
        "entry": {"role": entry, "x0": "device-tree" if x0 else "zero"},
        "images": [
            {"role": image.role, "images": [image.measurements.image_id], "addresses": [{"min": hex(image.base), "max": hex(image.base)}]}
            for image in images
        ],
        "memory": {"base": hex(ram.base), "size": {"min": ram.size, "max": ram.size}},
    }
    if policy is not None:
        document["rmm"] = {"hash_algorithms": [policy.hash_algorithm.value]}
        document["rmm"] |= {"versions": [RmmVersion.V2_0.value]} if policy.hash_algorithm is HashAlgorithm.SHA384 else {}
    return IgvmDraft(document, parse_workload(document), images)


def _entry(launch: IgvmLaunch) -> tuple[int, int]:
    runnable = [item.rec for item in launch.recs if item.rec.runnable]
    if len(runnable) != 1:
        raise refuse_draft(f"{len(runnable)} vCPUs are runnable at boot; a realm starts with exactly one")
    rec = runnable[0]
    if rec.flags != 1 or any(rec.gprs[1:]):
        raise refuse_draft("the first vCPU has flags or registers x1 to x7 that no boot protocol gives it")
    return rec.pc, rec.gprs[0]


def _images(launch: IgvmLaunch, pc: int, x0: int) -> tuple[IgvmImage, ...]:
    runs = launch.runs(pc, x0)
    loose = next((run for run in runs if not run.measured), None)
    if loose is not None:
        what = "what x0 points to, " if loose.base <= x0 < loose.base + loose.size else ""
        raise refuse_draft(f"the pages from {loose.base:#x} on ({what}{loose.size} bytes) are not measured: the host writes what it likes")
    found: dict[str, IgvmImage] = {}
    for run in runs:
        role = _role(run, pc, x0)
        if role in found:
            raise refuse_draft(f"the pages from {run.base:#x} on would be a second {role}: a workload has one image for each role")
        found[role] = IgvmImage(role, run.base, measure_image(run.content))
    if not any(image.base == pc for image in found.values()):
        raise refuse_draft(f"the first vCPU starts at {pc:#x}, which is not the start of measured pages")
    if "device-tree" not in found:
        raise refuse_draft("no device tree is among the measured pages: RAM, devices and command line would be what the host says")
    return tuple(found.values())


def _role(run: IgvmRun, pc: int, x0: int) -> str:
    content = run.content
    if run.base == pc:
        return "kernel" if read_arm64_header(content[:64]) is not None else "firmware"
    if content.startswith(MAGIC_BYTES):
        return "device-tree"
    if run.base == x0:
        raise refuse_draft(f"x0 points to {x0:#x}, which is no device tree")
    return "initrd"
