"""A realm's build plan in CBOR: dialect, realm parameters and operations, as our image profile of CoRIM holds them (docs/corim.md)."""

from collections.abc import Sequence

from kbs_rim.appraisal.comid_shape import as_array, as_map, malformed, only
from kbs_rim.appraisal.image_reference import BuildPlan
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.evidence.printable import printable
from kbs_rim.evidence.strict_cbor import CborMap, CborValue
from kbs_rim.limits import GRANULE_SIZE, Limits
from kbs_rim.measurement.boot_plan import BootPlan, CreateRecord, LoadedImage, LogArea, RecRecord, RipasRecord, Step
from kbs_rim.measurement.dialect import Dialect, Order, Rounding
from kbs_rim.measurement.rmm import MAX_IPA_BITS, MIN_IPA_BITS, RealmCreate, RecCreate, RmmVersion, count_ripas_entries

_RMM, _ROUNDING, _ORDER, _PARAMETERS, _STEPS = range(5)
_RIPAS, _IMAGE, _UNMEASURED, _REC = range(4)
"""First element of a step."""
_PARAMETER_COUNT = 6
_DESCRIPTION_LENGTH = 64


def encode_plan(plan: BuildPlan) -> CborMap:
    """Return a plan without its RIM, as a CBOR map."""
    params = plan.boot.create.params
    return {
        _RMM: plan.dialect.rmm.value,
        _ROUNDING: plan.dialect.rounding.value,
        _ORDER: plan.dialect.order.value,
        _PARAMETERS: (params.flags, params.s2sz, params.sve_vl, params.num_bps, params.num_wps, params.pmu_num_ctrs),
        _STEPS: tuple(_encode_step(step) for step in plan.boot.steps),
    }


def _encode_step(step: Step) -> CborValue:
    if isinstance(step, RipasRecord):
        return (_RIPAS, step.base, step.size)
    if isinstance(step, LoadedImage):
        return (_IMAGE, step.base, step.size, step.digest, step.description)
    if isinstance(step, LogArea):
        return (_UNMEASURED, step.base, step.size)
    return (_REC, step.rec.flags, step.rec.pc, step.rec.gprs)


def read_plan(value: CborValue, algorithm: HashAlgorithm, rim: bytes, limits: Limits) -> BuildPlan:
    """Read a plan for the RIM ``rim``, within the limits of a log's boot plan; raise ``InvalidDocument("endorsement.malformed")``."""
    members = as_map(value, "a build plan")
    only(members, range(5), "a build plan")
    try:
        dialect = Dialect(RmmVersion(members.get(_RMM)), Rounding(members.get(_ROUNDING)), Order(str(members.get(_ORDER))))
        numbers = _numbers(members.get(_PARAMETERS), _PARAMETER_COUNT, "the parameters of a build plan")
        params = RealmCreate(algorithm, *numbers)
        if not MIN_IPA_BITS <= params.s2sz <= MAX_IPA_BITS:
            raise ValueError(f"no realm has {params.s2sz} address bits")
        items = as_array(members.get(_STEPS), "the steps of a build plan")
        if len(items) > limits.recs + limits.ripas_records + limits.image_records + 1:
            raise ValueError("too many steps")
        steps = tuple(_read_step(item, number, algorithm) for number, item in enumerate(items, 1))
        _check_steps(steps, params.s2sz, limits)
        return BuildPlan(rim, dialect, BootPlan(algorithm, None, CreateRecord(0, params), steps))
    except ValueError as error:
        malformed(f"build plan: {error}")


def _numbers(value: CborValue, count: int, what: str) -> tuple[int, ...]:
    items = value if isinstance(value, tuple) else ()
    numbers = tuple(item for item in items if type(item) is int and item >= 0)
    if len(numbers) != count or len(items) != count:
        malformed(f"{what} are not {count} whole numbers")
    return numbers


def _read_step(item: CborValue, number: int, algorithm: HashAlgorithm) -> Step:
    parts = item if isinstance(item, tuple) and len(item) in (3, 4, 5) else (None,)
    kind, *others = parts
    if type(kind) is int and kind == _REC and len(others) == 3:
        flags, entry = _numbers(tuple(others[:2]), 2, "flags and entry of a vCPU")
        x0, x1, x2, x3, x4, x5, x6, x7 = _numbers(others[2], 8, "the registers of a vCPU")
        return RecRecord(number, RecCreate(flags, entry, (x0, x1, x2, x3, x4, x5, x6, x7)))
    base, size = _numbers(tuple(others[:2]), 2, "address and size of a step")
    if kind is not True and kind == _IMAGE and len(others) == 4:
        digest, description = others[2:]
        if not isinstance(digest, bytes) or len(digest) != algorithm.digest_size:
            malformed("an image of a build plan has no digest in the realm's algorithm")
        if not isinstance(description, str) or len(description) > _DESCRIPTION_LENGTH or printable(description) != description:
            malformed("an image of a build plan has no printable description")
        return LoadedImage(number, description, base, size, digest, algorithm)
    if type(kind) is int and kind in (_RIPAS, _UNMEASURED) and len(others) == 2:
        return RipasRecord(number, base, size) if kind == _RIPAS else LogArea(number, base, size)
    return malformed("a step of a build plan is of no known kind")


def _check_steps(steps: Sequence[Step], s2sz: int, limits: Limits) -> None:
    """Hold a plan to what a log would be held to before its replay; raise ``ValueError``."""
    top = entries = granules = 0
    counts = {RipasRecord: limits.ripas_records, LoadedImage: limits.image_records, LogArea: 1, RecRecord: limits.recs}
    for step in steps:
        counts[type(step)] -= 1
        if counts[type(step)] < 0:
            raise ValueError("too many steps of one kind")
        if isinstance(step, RecRecord):
            continue
        if step.size < 1 or step.base + step.size > 1 << (s2sz - 1):
            raise ValueError(f"{step.base:#x} + {step.size:#x} is not in the protected address space")
        if not isinstance(step, LoadedImage) and (step.base % GRANULE_SIZE or step.size % GRANULE_SIZE):
            raise ValueError(f"{step.base:#x} + {step.size:#x} is not page aligned")
        if isinstance(step, RipasRecord):
            if step.base < top:
                raise ValueError("RAM ranges overlap or do not ascend")
            top = step.base + step.size
            entries += count_ripas_entries(step.base, top, s2sz)
        else:
            granules += -(-(step.base + step.size) // GRANULE_SIZE) - step.base // GRANULE_SIZE
        if isinstance(step, LogArea) and step.size > limits.unmeasured_bytes:
            raise ValueError("the unmeasured area is too large")
    if entries > limits.ripas_entries or granules > limits.plan_granules:
        raise ValueError("it measures too much")
