"""One simulated realm: a VM built on the RMM model, the log its VMM wrote, and the tokens its platform signs."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from cryptography.hazmat.primitives.asymmetric import ec

from kbs_rim.evidence.envelope import Evidence
from kbs_rim.evidence.tcg_log import LogKind
from kbs_rim.realm.cc_log import cc_area, cc_log
from kbs_rim.realm.cc_log_lies import BOOT_LIES, BootLie
from kbs_rim.realm.failures import SimulationFailed
from kbs_rim.realm.firmware_boot import Disk, FirmwareBoot, Measured
from kbs_rim.realm.host_script import DEVICE_TREE, FIRMWARE, HostHabits, HostScript, honest_log, perform
from kbs_rim.realm.lies import LIES, Distortion, Lie, TokenLie
from kbs_rim.realm.log_emitter import LogEmitter, LogRecord, LogStyle, TreeRecord
from kbs_rim.realm.platform_identity import PlatformIdentity
from kbs_rim.realm.rim_model import RmmGeneration
from kbs_rim.realm.rmm_model import RmmModel
from kbs_rim.realm.token_factory import (
    PLATFORM_KEY,
    REALM_KEY,
    MecSpelling,
    OuterForm,
    PlatformBoot,
    RealmState,
    TokenProfile,
    collection,
)

_FLAG_MEC_PRIVATE = 1 << 7
_TRUTH = Distortion(about="The truth.", findings=frozenset())


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenStyle:
    """How the platform writes its tokens. ``mec`` None: as the profile does."""

    form: OuterForm = OuterForm.CMW
    profile: TokenProfile = TokenProfile.P2023_R2023
    mec: MecSpelling | None = None


class TreeDelivery(StrEnum):
    """Where the bytes of the device tree go with the evidence."""

    NONE = "none"
    ENVELOPE = "envelope"
    LOG = "log"


USUAL_HABITS = HostHabits()
USUAL_TOKENS = TokenStyle()


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """Everything that decides a simulated realm. ``extends`` are (index 1-4, value) pairs that the running realm makes.

    ``disk`` is what the firmware boots and measures; without one it measures nothing. ``boot_lie`` is about that boot.
    ``send_log`` False: the VMM wrote no log, as the newest do.
    """

    script: HostScript
    log_style: LogStyle
    identity: PlatformIdentity
    generation: RmmGeneration = RmmGeneration.V1
    habits: HostHabits = USUAL_HABITS
    tokens: TokenStyle = USUAL_TOKENS
    lie: Lie | None = None
    disk: Disk | None = None
    boot_lie: BootLie | None = None
    extends: tuple[tuple[int, bytes], ...] = ()
    send_tree: TreeDelivery = TreeDelivery.NONE
    send_log: bool = True


class SimulatedRealm:
    """A realm that runs: it has a RIM, a log, and answers challenges."""

    def __init__(self, simulation: Simulation) -> None:
        """Build and boot the VM; raise ``RmmRefused`` or ``SimulationFailed``."""
        self.simulation = simulation
        self._distortion = LIES[simulation.lie] if simulation.lie else _TRUTH
        self.built = self._distortion.vm(simulation.script)
        self._measured = self._boot_disk()
        self._rmm = self._boot(self.built)
        self.log = self._write_log()
        self.cc_log = self._write_cc_log()
        identity = simulation.identity
        if self._distortion.token is TokenLie.DEBUG:
            identity = identity.in_debug()
        self._platform = self._boot_platform(identity)
        self._state = _state_of(self._rmm)

    @property
    def rim(self) -> bytes:
        """The RIM as long as the realm's digest."""
        return self._rmm.measurements.rim

    @property
    def rems(self) -> tuple[bytes, bytes, bytes, bytes]:
        """REM0 to REM3."""
        return self._rmm.measurements.rems

    def _boot(self, script: HostScript) -> RmmModel:
        rmm = perform(script, self.simulation.generation, self.simulation.habits)
        measured = ((item.register, item.digest) for item in self._measured)
        for index, value in (*measured, *self.simulation.extends, *self._distortion.extends):
            rmm.extend(index, value)
        return rmm

    def _boot_disk(self) -> tuple[Measured, ...]:
        """Return what the firmware measures of the disk that is really there."""
        disk, lie = self.simulation.disk, self.simulation.boot_lie
        if disk is None:
            if lie is not None:
                raise SimulationFailed(f"the lie {lie} is about a measured boot: there must be a disk")
            return ()
        if self.built.entry_image.name != FIRMWARE:
            raise SimulationFailed("only firmware boots from a disk")
        return self._measure(disk if lie is None else BOOT_LIES[lie].disk(disk))

    def _measure(self, disk: Disk) -> tuple[Measured, ...]:
        return FirmwareBoot(disk, self.built.params.hash, bytes(self.built.load(DEVICE_TREE).data)).measurements()

    def _write_cc_log(self) -> bytes | None:
        """Return the firmware's log area, or what the lie makes of it; None if there is none to send."""
        disk, lie, hash_ = self.simulation.disk, self.simulation.boot_lie, self.built.params.hash
        if disk is None:
            return None
        if lie is None:
            return cc_area(cc_log(self._measured, hash_))
        return BOOT_LIES[lie].log(self._measured, self._measure(disk), hash_)

    def _boot_platform(self, identity: PlatformIdentity) -> PlatformBoot:
        return PlatformBoot(identity, self.simulation.tokens.profile, mec=self.simulation.tokens.mec)

    def _write_log(self) -> bytes:
        told = self.simulation.script if self._distortion.log_of_plan else self.built
        records = self._distortion.log(honest_log(told, self.simulation.habits))
        if self.simulation.send_tree is TreeDelivery.LOG:
            # The area is small and zeros behind a tree say nothing: the broker puts them back.
            records = (records[0], TreeRecord(bytes(told.load(DEVICE_TREE).data).rstrip(b"\0")), *records[1:])
        return write_log(records, self.simulation, self._distortion.log_area_size)

    def token(self, challenge: bytes) -> bytes:
        """Return a CCA token for a 64-byte challenge, or what the lie makes of it."""
        form = self.simulation.tokens.form
        match self._distortion.token:
            case TokenLie.OLD_CHALLENGE:
                return self._platform.token(self._state, hashlib.sha512(b"old" + challenge).digest(), form)
            case TokenLie.SPLICED:
                attacker = self._boot_platform(self.simulation.identity)
                members = [(PLATFORM_KEY, self._platform.platform_token), (REALM_KEY, attacker.realm_token(self._state, challenge))]
                return collection(form, members)
            case TokenLie.FORGED_LAST | TokenLie.FORGED_FIRST | TokenLie.FORGED_AS_INTEGER:
                return self._ambiguous_token(challenge)
            case _:
                return self._platform.token(self._state, challenge, form)

    def _ambiguous_token(self, challenge: bytes) -> bytes:
        """Two tokens in one collection: ours, and one with the wanted RIM that a platform key of our own making signed."""
        genuine = [self._platform.platform_token, self._platform.realm_token(self._state, challenge)]
        forger = self._boot_platform(replace(self.simulation.identity, cpak=ec.generate_private_key(ec.SECP384R1())))
        wanted = _state_of(self._boot(self.simulation.script))
        forged = [forger.platform_token, forger.realm_token(wanted, challenge)]
        keys: Sequence[int] = (PLATFORM_KEY, REALM_KEY)
        texts = [str(key) for key in keys]
        match self._distortion.token:
            case TokenLie.FORGED_LAST:
                members: list[tuple[int | str, bytes]] = [*zip(keys, genuine, strict=True), *zip(keys, forged, strict=True)]
            case TokenLie.FORGED_FIRST:
                members = [*zip(keys, forged, strict=True), *zip(keys, genuine, strict=True)]
            case _:
                members = [*zip(texts, genuine, strict=True), *zip(keys, forged, strict=True)]
        return collection(self.simulation.tokens.form, members)

    def evidence(self, challenge: bytes) -> Evidence:
        """Return token, VMM log and firmware's log, as the guest sends them, and the device tree if it is told to."""
        tree = bytes(self.built.load(DEVICE_TREE).data) if self.simulation.send_tree is TreeDelivery.ENVELOPE else None
        logs = [(LogKind.VMM, self.log)] if self.simulation.send_log else []
        if self.cc_log is not None:
            logs.append((LogKind.CC, self.cc_log))
        return Evidence(self.token(challenge), tuple(logs), tree)


def write_log(records: Sequence[LogRecord], simulation: Simulation, area_size: int) -> bytes:
    """Return the log as bytes, padded to the area."""
    emitter = LogEmitter(simulation.script.params.hash, simulation.log_style)
    for record in records:
        emitter.write(record)
    return emitter.finish(area_size)


def _state_of(rmm: RmmModel) -> RealmState:
    private = bool(rmm.params.flags & _FLAG_MEC_PRIVATE)
    return RealmState(rmm.params.hash.value, rmm.measurements.rim, rmm.measurements.rems, rmm.params.rpv, private)
