"""The boot plan: what a VMM log says was done to build a realm, as typed RMM operations in log order.

See docs/logs.md. A log becomes a plan only if it is free of contradictions and its
replay is bounded; whether the plan is *innocent* is judged by ``appraisal.boot_rules`` after the RIM matched. Raw values are kept
as the host gave them, because the RMM hashes them so: no field is normalised, no unknown flag is dropped (hazard T10).

Descriptions, VM VERSION and sizes are not measured. Only one description decides something: ``LOG`` without a digest is the
log area. Any other image without a digest refuses the log, whatever its name (hazard T1).
"""

from dataclasses import dataclass, field

from kbs_rim.errors import MalformedEvidence
from kbs_rim.evidence.hash_algorithm import HashAlgorithm
from kbs_rim.evidence.printable import printable_bytes
from kbs_rim.evidence.tcg_log import DEVICE_TREE_SIGNATURE, VM_VERSION_SIGNATURE, LogKind, TcgEvent, TcgLog
from kbs_rim.evidence.tcg_names import (
    EV_EFI_PLATFORM_FIRMWARE_BLOB2,
    EV_EVENT_TAG,
    EV_NO_ACTION,
    EV_POST_CODE2,
    TAG_INIT_RIPAS,
    TAG_REALM_CREATE,
    TAG_REC_CREATE,
)
from kbs_rim.evidence.tcg_structures import FirmwareBlob, parse_firmware_blob2, parse_tagged_event
from kbs_rim.evidence.vmm_records import (
    RealmCreateRecord,
    VmVersionLayout,
    parse_init_ripas,
    parse_realm_create,
    parse_rec_create,
    parse_vm_version,
)
from kbs_rim.limits import DEFAULT_LIMITS, GRANULE_SIZE, Limits
from kbs_rim.measurement.rmm import MAX_IPA_BITS, MIN_IPA_BITS, RealmCreate, RealmFlags, RecCreate, count_ripas_entries

LOG_DESCRIPTION = "LOG"
ONCE = frozenset({"KERNEL", "INITRD", "FIRMWARE", "DTB"})
"""Descriptions that may stand in a log once (hazard T18)."""
_IMAGE_TYPES = frozenset({EV_POST_CODE2, EV_EFI_PLATFORM_FIRMWARE_BLOB2})
_MAX_IPA_BITS_WITHOUT_LPA2 = 48
_MAX_RAM_SIZE = 1 << MAX_IPA_BITS


@dataclass(frozen=True, slots=True)
class VmVersion:
    """Who built the realm, by its own account: not measured. ``ram_size`` is in bytes."""

    event: int
    name: str
    version: str
    ram_size: int
    num_cpus: int
    layout: VmVersionLayout


@dataclass(frozen=True, slots=True)
class CreateRecord:
    """REALM_CREATE."""

    event: int
    params: RealmCreate


@dataclass(frozen=True, slots=True)
class RipasRecord:
    """INIT_RIPAS of [base, base + size)."""

    event: int
    base: int
    size: int


@dataclass(frozen=True, slots=True)
class LoadedImage:
    """Measured data: ``size`` bytes at ``base``, which the log says have ``digest`` in the realm's algorithm.

    ``description`` is printable, without NULs. ``other_digests`` are those of the log's other algorithms, as (algorithm, digest).
    """

    event: int
    description: str
    base: int
    size: int
    digest: bytes
    algorithm: HashAlgorithm
    other_digests: tuple[tuple[HashAlgorithm, bytes], ...] = ()

    @property
    def top(self) -> int:
        """First address behind the image."""
        return self.base + self.size


@dataclass(frozen=True, slots=True)
class LogArea:
    """The log itself, populated without being measured; page aligned."""

    event: int
    base: int
    size: int


@dataclass(frozen=True, slots=True)
class RecRecord:
    """REC_CREATE."""

    event: int
    rec: RecCreate


Step = RipasRecord | LoadedImage | LogArea | RecRecord


@dataclass(frozen=True, slots=True)
class BootPlan:
    """The operations after REALM_CREATE in log order. Hashable: equal plans with equal images have equal RIMs.

    ``sent_tree`` are bytes that the log holds as the realm's device tree. They are nobody's word: what was loaded is in ``images``.
    """

    hash_algorithm: HashAlgorithm
    vm: VmVersion | None
    create: CreateRecord
    steps: tuple[Step, ...]
    sent_tree: bytes | None = field(default=None, repr=False, compare=False)

    @property
    def images(self) -> tuple[LoadedImage, ...]:
        """Measured images in log order."""
        return tuple(step for step in self.steps if isinstance(step, LoadedImage))

    @property
    def ripas(self) -> tuple[RipasRecord, ...]:
        """RAM ranges, ascending and disjoint."""
        return tuple(step for step in self.steps if isinstance(step, RipasRecord))

    @property
    def recs(self) -> tuple[RecRecord, ...]:
        """vCPUs in log order, runnable or not."""
        return tuple(step for step in self.steps if isinstance(step, RecRecord))

    @property
    def log_area(self) -> LogArea | None:
        """The unmeasured log area, if the log names one."""
        return next((step for step in self.steps if isinstance(step, LogArea)), None)


def boot_plan_from_log(log: TcgLog, limits: Limits = DEFAULT_LIMITS) -> BootPlan:
    """Read a VMM log as a boot plan.

    Raises ``MalformedEvidence``: ``plan.*`` for values and order, ``log.event-data`` for structures, ``log.event-type`` for a
    record that has no place here, ``tree.ambiguous`` for two device trees. All limits hold before anything is hashed. Raises
    ``ValueError`` for another kind of log.
    """
    reader = _PlanReader(log, limits)
    reader.read()
    if reader.create is None or reader.algorithm is None:
        raise MalformedEvidence("plan.realm-create", "the log has no REALM_CREATE", expected="exactly one, first", seen="none")
    return BootPlan(reader.algorithm, reader.vm, reader.create, tuple(reader.steps), reader.sent_tree)


def check_vmm_records(log: TcgLog, limits: Limits = DEFAULT_LIMITS) -> None:
    """Check every record of a VMM log, also of a fragment that creates no realm (older kvmtool logs only images).

    For display: such a fragment gives no RIM. Raises what ``boot_plan_from_log`` raises.
    """
    _PlanReader(log, limits, fragment=not any(_is_realm_create(event) for event in log.events)).read()


def _is_realm_create(event: TcgEvent) -> bool:
    return event.type == EV_EVENT_TAG and parse_tagged_event(event.data).tag == TAG_REALM_CREATE


class _PlanReader:
    """The state machine START -> (VM VERSION?) -> REALM_CREATE -> {INIT_RIPAS | image | REC | LOG}*."""

    def __init__(self, log: TcgLog, limits: Limits, *, fragment: bool = False) -> None:
        if log.kind is not LogKind.VMM:
            raise ValueError("a boot plan is read from a VMM log")
        self._log, self._limits, self._fragment = log, limits, fragment
        self.vm: VmVersion | None = None
        self.create: CreateRecord | None = None
        self.algorithm: HashAlgorithm | None = None
        self.steps: list[Step] = []
        self.sent_tree: bytes | None = None
        self._once: set[str] = set()
        self._granules = self._ripas_records = self._ripas_entries = self._ripas_top = self._recs = 0
        # The first address that is not protected; a fragment does not say, so any address that an RMM could know will do.
        self._protected_top = 1 << (MAX_IPA_BITS - 1)

    def read(self) -> None:
        """Read all records. The number of images is checked first: each costs far more to replay than to write (D6)."""
        images = sum(event.type in _IMAGE_TYPES for event in self._log.events)
        if images > self._limits.image_records:
            raise MalformedEvidence(
                "plan.image", "the log has too many image records", expected=f"at most {self._limits.image_records}", seen=str(images)
            )
        for event in self._log.events:
            try:
                self._event(event)
            except MalformedEvidence as error:
                message = f"record {event.number}: {error.message}"
                raise MalformedEvidence(error.finding_id, message, offset=event.offset, expected=error.expected, seen=error.seen) from None

    def _event(self, event: TcgEvent) -> None:
        if event.type == EV_NO_ACTION:
            # Not measured: other signatures tell us nothing, and these two only what to look at.
            if event.data.startswith(VM_VERSION_SIGNATURE):
                self._vm_version(event)
            elif event.data.startswith(DEVICE_TREE_SIGNATURE):
                self._device_tree(event.data[len(DEVICE_TREE_SIGNATURE) :])
        elif event.type == EV_EVENT_TAG:
            self._tagged(event)
        elif event.type in _IMAGE_TYPES:
            self._blob(event)
        else:
            raise MalformedEvidence("log.event-type", "the record has no place in a VMM log", seen=event.type_name)

    def _vm_version(self, event: TcgEvent) -> None:
        if self.vm is not None or self.create is not None or self.steps or self._granules:
            raise MalformedEvidence("plan.vm-version", "VM VERSION is repeated or not before everything else")
        record = parse_vm_version(event.data)
        if not 1 <= record.num_cpus <= self._limits.cpus:
            raise MalformedEvidence(
                "plan.vm-version", "the number of CPUs is impossible", expected=f"1 to {self._limits.cpus}", seen=str(record.num_cpus)
            )
        if not 1 <= record.ram_size <= _MAX_RAM_SIZE:
            raise MalformedEvidence("plan.vm-version", "the RAM size is impossible", seen=hex(record.ram_size))
        self.vm = VmVersion(event.number, record.name, record.version, record.ram_size, record.num_cpus, record.layout)

    def _device_tree(self, data: bytes) -> None:
        if self.sent_tree is not None:
            raise MalformedEvidence("tree.ambiguous", "the log holds two device trees", expected="at most one")
        self.sent_tree = data

    def _tagged(self, event: TcgEvent) -> None:
        tagged = parse_tagged_event(event.data)
        if tagged.tag == TAG_REALM_CREATE:
            self._realm_create(event, parse_realm_create(tagged.data))
        elif tagged.tag == TAG_INIT_RIPAS:
            self._init_ripas(event, *parse_init_ripas(tagged.data))
        elif tagged.tag == TAG_REC_CREATE:
            self._rec_create(event, tagged.data)
        else:
            raise MalformedEvidence("log.event-type", "the tagged event has no meaning in a VMM log", seen=f"tag {tagged.tag:#x}")

    def _realm_create(self, event: TcgEvent, record: RealmCreateRecord) -> None:
        if self.create is not None:
            # A second one would start the RIM again while the records before it stay in view (hazard T4).
            raise MalformedEvidence("plan.realm-create", "REALM_CREATE is repeated", expected="exactly one")
        params = _realm_params(record)
        if params.hash_algorithm.tpm_id not in self._log.algorithms:
            listed = ", ".join(f"{identifier:#06x}" for identifier in self._log.algorithms)
            raise MalformedEvidence(
                "plan.hash-algorithm", "the log has no digests in the realm's algorithm", expected=params.hash_algorithm.value, seen=listed
            )
        self._protected_top = 1 << (params.s2sz - 1)
        self.algorithm = params.hash_algorithm
        self.create = CreateRecord(event.number, params)

    def _require_create(self) -> None:
        if self.create is None:
            raise MalformedEvidence("plan.realm-create", "an operation stands before REALM_CREATE", expected="REALM_CREATE first")

    def _init_ripas(self, event: TcgEvent, base: int, size: int) -> None:
        self._require_create()
        self._ripas_records += 1
        if self._ripas_records > self._limits.ripas_records:
            raise MalformedEvidence(
                "plan.ripas", "the log has too many INIT_RIPAS records", expected=f"at most {self._limits.ripas_records}"
            )
        self._check_range("plan.ripas", "the RAM range", base, size, aligned=True)
        if base < self._ripas_top:
            raise MalformedEvidence(
                "plan.ripas", "RAM ranges overlap or do not ascend", expected=f"from {self._ripas_top:#x} on", seen=hex(base)
            )
        self._ripas_top = base + size
        if self.create is not None:
            # Counted, not walked: 2^51 entries take no longer than one (hazard D4).
            self._ripas_entries += count_ripas_entries(base, base + size, self.create.params.s2sz)
        if self._ripas_entries > self._limits.ripas_entries:
            raise MalformedEvidence(
                "plan.ripas",
                "the RAM needs too many table entries",
                expected=f"at most {self._limits.ripas_entries}",
                seen=str(self._ripas_entries),
            )
        self.steps.append(RipasRecord(event.number, base, size))

    def _rec_create(self, event: TcgEvent, data: bytes) -> None:
        self._require_create()
        self._recs += 1
        if self._recs > self._limits.recs:
            raise MalformedEvidence("plan.rec", "the log has too many REC_CREATE records", expected=f"at most {self._limits.recs}")
        self.steps.append(RecRecord(event.number, RecCreate(*parse_rec_create(data))))

    def _blob(self, event: TcgEvent) -> None:
        if not self._fragment:
            self._require_create()
        blob = parse_firmware_blob2(event.data)
        description = printable_bytes(blob.description.rstrip(b"\0"))
        if description == LOG_DESCRIPTION:
            self._log_area(event, blob)
        elif event.digests:
            self._image(event, blob, description)
        else:
            raise MalformedEvidence(
                "plan.unmeasured", f"{description or 'an image'} was loaded without being measured", expected="a digest", seen="none"
            )

    def _log_area(self, event: TcgEvent, blob: FirmwareBlob) -> None:
        if event.digests:
            raise MalformedEvidence("plan.log-area", "the log area has a digest: was it measured or not?", expected="no digest")
        if LOG_DESCRIPTION in self._once:
            raise MalformedEvidence("plan.log-area", "the log names two log areas", expected="at most one")
        self._once.add(LOG_DESCRIPTION)
        if blob.length > self._limits.unmeasured_bytes:
            raise MalformedEvidence(
                "plan.log-area",
                "the log area is too large",
                expected=f"at most {self._limits.unmeasured_bytes} bytes",
                seen=str(blob.length),
            )
        self._check_range("plan.log-area", "the log area", blob.base, blob.length, aligned=True)
        self._count_granules(blob.base, blob.length)
        self.steps.append(LogArea(event.number, blob.base, blob.length))

    def _image(self, event: TcgEvent, blob: FirmwareBlob, description: str) -> None:
        if description in ONCE and description in self._once:
            raise MalformedEvidence("plan.image", f"the log loads two images as {description}", expected="at most one")
        self._once.add(description)
        self._check_range("plan.image", "the image", blob.base, blob.length, aligned=False)
        self._count_granules(blob.base, blob.length)
        if self.algorithm is None:
            return  # A fragment: there is no realm whose algorithm would choose a digest.
        known = {algorithm.tpm_id: algorithm for algorithm in HashAlgorithm}
        others = tuple(
            (known[identifier], digest)
            for identifier, digest in event.digests.items()
            if identifier in known and identifier != self.algorithm.tpm_id
        )
        digest = event.digests[self.algorithm.tpm_id]
        self.steps.append(LoadedImage(event.number, description, blob.base, blob.length, digest, self.algorithm, others))

    def _check_range(self, finding_id: str, what: str, base: int, size: int, *, aligned: bool) -> None:
        if size < 1:
            raise MalformedEvidence(finding_id, f"{what} is empty")
        if base + size > self._protected_top:
            raise MalformedEvidence(
                finding_id,
                f"{what} reaches out of the protected address space",
                expected=f"below {self._protected_top:#x}",
                seen=f"{base:#x} + {size:#x}",
            )
        if aligned and (base % GRANULE_SIZE or size % GRANULE_SIZE):
            raise MalformedEvidence(finding_id, f"{what} is not page aligned", seen=f"{base:#x} + {size:#x}")

    def _count_granules(self, base: int, size: int) -> None:
        self._granules += -(-(base + size) // GRANULE_SIZE) - base // GRANULE_SIZE
        if self._granules > self._limits.plan_granules:
            raise MalformedEvidence("plan.granules", "the images have too many granules", expected=f"at most {self._limits.plan_granules}")


def _realm_params(record: RealmCreateRecord) -> RealmCreate:
    """Check what every RMM checks and keep the raw values, unknown flags included."""
    try:
        algorithm = HashAlgorithm.from_rmi_code(record.hash_algo)
    except ValueError as error:
        raise MalformedEvidence("plan.parameters", str(error)) from None
    widest = MAX_IPA_BITS if record.flags & RealmFlags.LPA2 else _MAX_IPA_BITS_WITHOUT_LPA2
    bounds = {"s2sz": (MIN_IPA_BITS, widest), "num_bps": (1, 63), "num_wps": (1, 63)}
    # The RMM looks at these two only with their flag, but measures them without it all the same.
    if record.flags & RealmFlags.SVE:
        bounds["sve_vl"] = (0, 15)
    if record.flags & RealmFlags.PMU:
        bounds["pmu_num_ctrs"] = (0, 31)
    for name, (low, high) in bounds.items():
        value = getattr(record, name)
        if not low <= value <= high:
            raise MalformedEvidence("plan.parameters", f"no RMM accepts {name} {value}", expected=f"{low} to {high}", seen=str(value))
    return RealmCreate(algorithm, record.flags, *record[1:6])
