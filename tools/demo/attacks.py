"""The attacks: what each does, what the attacker must be told, and what the auditor must see. Every one runs against real images."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from threading import Lock
from typing import Any

from demo.guests import GOT_IT, Guests, Told, told_by
from demo.programs import Cli
from demo.realms import KVMTOOL_KERNEL, MEASURED_BOOT, MIXED, QEMU_FIRMWARE, QEMU_KERNEL, TENANT_B, Vm
from demo.site import Broker, Site
from demo.wire import ChallengeForger, Delayer, KeySwapper, Message, Network, Wire, ask_for_challenge, evidence_path, post

COSTLY_S = 5.0
"""No attack may keep the broker busy for longer. Honest appraisals of these realms take a tenth of it."""
_BOMB_BYTES = 3 * 1024 * 1024


@dataclass(kw_only=True)
class Theatre:
    """Everybody who takes part. ``replica`` is a second broker on the same database whose challenges live for seconds."""

    site: Site
    guests: Guests
    broker: Broker
    replica: Broker
    admin: Cli
    auditor: Cli
    images: dict[str, str]
    crew: ThreadPoolExecutor
    released: list[str] = field(default_factory=list)
    _late: "Future[Told] | None" = None
    _captured: Message | None = None
    _capturing: Lock = field(default_factory=Lock)

    def honest(self, vm: Vm, broker_url: str | None = None, *, echo: bool = False) -> Told:
        """Let a VM ask without any lie; note the ticket of what was released."""
        told = self.guests.ask(vm, broker_url or self.broker.guest_url, echo=echo)
        if told.code == GOT_IT and told.ticket:
            self.released.append(told.ticket)
        return told

    def captured(self) -> Message | Told:
        """Return good evidence that passed an eavesdropper, or what the guest was told if it did not get its secret."""
        with self._capturing:
            if self._captured is None:
                network = Network()
                with Wire(self.broker.guest_url, network) as wire:
                    told = self.honest(QEMU_FIRMWARE, wire.url)
                if told.code != GOT_IT:
                    return told
                self._captured = network.evidence
            return self._captured

    def send_late_evidence(self) -> None:
        """Start the one attack that has to wait, beside everything else."""
        self._late = self.crew.submit(self._late_evidence)

    def late(self) -> Told:
        """Return how it went."""
        return self._late_evidence() if self._late is None else self._late.result()

    def _late_evidence(self) -> Told:
        with Wire(self.replica.guest_url, Delayer()) as wire:
            return self.guests.ask(QEMU_FIRMWARE, wire.url)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """One attack. ``told`` is the code for the attacker, ``findings`` must all be in the record, whose verdict is ``verdict``.

    An attack with ``findings`` empty never gets as far as an appraisal; ``instead`` is why.
    """

    title: str
    act: Callable[[Theatre], Told]
    told: str
    findings: tuple[str, ...] = ()
    verdict: str = "refused"
    instead: str = "no evidence was judged"


@dataclass(frozen=True, slots=True)
class Group:
    """Attacks of one kind; ``together``: they do not disturb each other."""

    title: str
    attacks: Sequence[Attack]
    together: bool = True


@dataclass(frozen=True, slots=True)
class Judged:
    """How an attack went. ``seen`` are the errors that the auditor sees, ``problems`` what was not as expected."""

    attack: Attack
    told: Told
    seen: tuple[str, ...]
    broker_s: float | None
    problems: tuple[str, ...]


def judge(attack: Attack, told: Told, record: Any | None) -> Judged:
    """Compare what happened with what had to happen; ``record`` is the document of ``kbs-rim appraisal show --json``."""
    problems = []
    if told.code != attack.told:
        problems.append(f"the attacker was told {told.code}, not {attack.told}" + (f" ({told.message})" if told.message else ""))
    if told.secret is not None:
        problems.append("the attacker got an answer with a secret")
    if record is None:
        if attack.findings:
            problems.append("there is no record of it")
        return Judged(attack, told, (), None, tuple(problems))
    appraisal = record["appraisal"]
    seen = tuple(dict.fromkeys(item["id"] for item in appraisal["findings"] if item["severity"] == "error"))
    broker_s = sum(appraisal["durations_us"].values()) / 1e6
    if missing := [name for name in attack.findings if name not in seen]:
        problems.append(f"the auditor does not see {', '.join(missing)}")
    if appraisal["verdict"] != attack.verdict:
        problems.append(f"the verdict is {appraisal['verdict']}, not {attack.verdict}")
    if record["releases"]:
        problems.append("something was released")
    if broker_s > COSTLY_S:
        problems.append(f"it kept the broker busy for {broker_s:.1f} s")
    return Judged(attack, told, seen, broker_s, tuple(problems))


# --- on the wire ------------------------------------------------------------------------------------------------------


def _replay_same_challenge(theatre: Theatre) -> Told:
    evidence = theatre.captured()
    if isinstance(evidence, Told):
        return evidence
    return _posted(theatre.replica, evidence)


def _replay_new_challenge(theatre: Theatre) -> Told:
    evidence = theatre.captured()
    if isinstance(evidence, Told):
        return evidence
    answer, _ = ask_for_challenge(theatre.broker.guest_url, QEMU_FIRMWARE.key)
    return _posted(theatre.broker, replace(evidence, path=evidence_path(answer)))


def _swap_key(theatre: Theatre) -> Told:
    with Wire(theatre.broker.guest_url, KeySwapper()) as wire:
        return theatre.guests.ask(QEMU_KERNEL, wire.url)


def _swap_key_and_forge_challenge(theatre: Theatre) -> Told:
    with Wire(theatre.broker.guest_url, ChallengeForger()) as wire:
        return theatre.guests.ask(QEMU_KERNEL, wire.url)


def _huge_body(theatre: Theatre) -> Told:
    answer, _ = ask_for_challenge(theatre.broker.guest_url, QEMU_KERNEL.key)
    headers = {"Content-Type": "application/json"}
    return _posted(theatre.broker, Message(evidence_path(answer), b"[" * _BOMB_BYTES, headers))


def _posted(broker: Broker, message: Message) -> Told:
    began = time.monotonic()
    answer = post(broker.guest_url, message)
    return told_by(answer, time.monotonic() - began)


# --- images -----------------------------------------------------------------------------------------------------------


def _revoked_image(theatre: Theatre) -> Told:
    """The realm gets its secret, its initrd is revoked, and the same realm asks again."""
    before = theatre.honest(TENANT_B)
    if before.code != GOT_IT:
        return before
    theatre.admin.must("image", "revoke", theatre.images["initrd-b.gz"], "--reason", "a hole in its network code", echo=False)
    return theatre.guests.ask(TENANT_B, theatre.broker.guest_url)


def _mixed(theatre: Theatre) -> Told:
    return theatre.guests.ask(MIXED, theatre.broker.guest_url)


def _lie(name: str, vm: Vm = QEMU_KERNEL) -> Callable[[Theatre], Told]:
    return lambda theatre: theatre.guests.ask(vm, theatre.broker.guest_url, lie=name)


# --- the verifier -----------------------------------------------------------------------------------------------------


def _with_verifier(*options: str, key: str = "verifier") -> Callable[[Theatre], Told]:
    """Ask while another verifier answers at the same address."""

    def act(theatre: Theatre) -> Told:
        theatre.site.stop_verifier()
        theatre.site.start_verifier(*options, key=key)
        return theatre.guests.ask(QEMU_KERNEL, theatre.broker.guest_url)

    return act


def _without_verifier(theatre: Theatre) -> Told:
    theatre.site.stop_verifier()
    network = Network()
    with Wire(theatre.broker.guest_url, network) as wire:
        for deadline_s in (5, 30):  # shorter than Retry-After, so that the guest does not wait for it; longer if the machine is slow
            told = theatre.guests.ask(QEMU_KERNEL, wire.url, deadline_s=deadline_s)
            if network.last_answer.status == HTTPStatus.SERVICE_UNAVAILABLE:
                break
    answer = network.last_answer
    listed = theatre.auditor.json("appraisal", "list", "--verdict", "unavailable", "--limit", "1")["appraisals"]
    ticket = listed[0]["id"] if listed else None
    return replace(told, code=f"{answer.status} {answer.json.get('code')}", ticket=ticket)


def _verifier_back(theatre: Theatre) -> Told:
    theatre.site.stop_verifier()
    theatre.site.start_verifier()
    return theatre.honest(QEMU_KERNEL)


def _auditor_revokes(theatre: Theatre) -> Told:
    result = theatre.auditor.run("image", "revoke", theatre.images["linux"], "--reason", "mischief")
    words = result.stderr.split(": ")
    return Told(words[1] if len(words) > 1 else f"exit code {result.code}", None, result.seconds, None, result.stderr.strip())


_TOKEN, _CHALLENGE, _EVIDENCE, _PLATFORM = "realm-token-refused", "challenge-refused", "evidence-malformed", "platform-refused"
_LOG, _MEASUREMENT, _BOOT = "log-refused", "measurement-refused", "boot-plan-refused"
GROUPS = (
    Group(
        "On the wire",
        (
            Attack(
                title="replay captured evidence for the same challenge, at another broker",
                act=_replay_same_challenge,
                told=_CHALLENGE,
                findings=("challenge.redeemed",),
            ),
            Attack(
                title="replay captured evidence for a new challenge",
                act=_replay_new_challenge,
                told=_TOKEN,
                findings=("realm.challenge",),
            ),
            Attack(
                title="hold evidence back until its challenge expired", act=Theatre.late, told=_CHALLENGE, findings=("challenge.expired",)
            ),
            Attack(
                title="swap the guest's key (the guest notices)",
                act=_swap_key,
                told="guest.challenge-not-ours",
                instead="the guest sent no evidence",
            ),
            Attack(
                title="swap the key and forge the challenge (the broker notices)",
                act=_swap_key_and_forge_challenge,
                told=_TOKEN,
                findings=("realm.challenge",),
            ),
        ),
    ),
    Group(
        "Token and platform",
        (
            Attack(
                title="replayed nonce: a token for an old challenge", act=_lie("replayed-nonce"), told=_TOKEN, findings=("realm.challenge",)
            ),
            Attack(
                title="realm token spliced to another platform's token",
                act=_lie("spliced-platform-token"),
                told=_TOKEN,
                findings=("realm.binding",),
            ),
            Attack(title="debug platform", act=_lie("debug-platform"), told=_PLATFORM, findings=("platform.lifecycle",)),
            Attack(
                title="duplicate CBOR keys, forged half last",
                act=_lie("duplicate-keys-forged-last"),
                told=_EVIDENCE,
                findings=("cbor.duplicate-key",),
            ),
            Attack(
                title="duplicate CBOR keys, forged half first",
                act=_lie("duplicate-keys-forged-first"),
                told=_EVIDENCE,
                findings=("cbor.duplicate-key",),
            ),
            Attack(title="duplicate CBOR keys, one as text", act=_lie("duplicate-keys-text"), told=_EVIDENCE, findings=("cbor.key-type",)),
        ),
    ),
    Group(
        "What the host boots",
        (
            Attack(title="tampered kernel", act=_lie("tampered-kernel"), told=_MEASUREMENT, findings=("rim.mismatch",)),
            Attack(title="tampered firmware", act=_lie("tampered-kernel", QEMU_FIRMWARE), told=_MEASUREMENT, findings=("rim.mismatch",)),
            Attack(title="unregistered kernel", act=_lie("unregistered-image"), told=_MEASUREMENT, findings=("rim.image-unknown",)),
            Attack(title="forged device tree", act=_lie("forged-device-tree"), told=_MEASUREMENT, findings=("rim.image-unknown",)),
            Attack(title="trusted images of two workloads mixed", act=_mixed, told=_BOOT, findings=("boot.role-unexpected",)),
            Attack(title="image revoked since the last boot", act=_revoked_image, told=_MEASUREMENT, findings=("rim.image-revoked",)),
            Attack(title="a kernel page not measured", act=_lie("unmeasured-kernel-page"), told=_MEASUREMENT, findings=("rim.mismatch",)),
            Attack(title="kernel not measured", act=_lie("unmeasured-kernel"), told=_LOG, findings=("plan.unmeasured",)),
            Attack(title="initrd not measured", act=_lie("unmeasured-initrd"), told=_LOG, findings=("plan.unmeasured",)),
            Attack(
                title="initrd replaced by the unmeasured log area",
                act=_lie("unmeasured-initrd-page"),
                told=_BOOT,
                findings=("boot.role-missing", "boot.log-reserved"),
            ),
            Attack(
                title="unmeasured initrd under kvmtool",
                act=_lie("unmeasured-initrd", KVMTOOL_KERNEL),
                told=_LOG,
                findings=("plan.unmeasured",),
            ),
            Attack(title="two images overlapping", act=_lie("overlapping-images"), told=_MEASUREMENT, findings=("boot.overlap",)),
            Attack(title="PC off the entry point", act=_lie("pc-off-entry"), told=_BOOT, findings=("boot.entry-point",)),
            Attack(title="x0 into the log area", act=_lie("x0-in-log-area"), told=_BOOT, findings=("boot.x0", "boot.log-area")),
            Attack(title="second runnable REC", act=_lie("second-runnable-rec"), told=_BOOT, findings=("boot.rec-count",)),
            Attack(title="REM extended without explanation", act=_lie("rem-moved"), told=_MEASUREMENT, findings=("rem.mismatch",)),
        ),
    ),
    Group(
        "What firmware boots from disk",
        (
            Attack(
                title="another kernel on the disk",
                act=_lie("disk-program", MEASURED_BOOT),
                told=_MEASUREMENT,
                findings=("rem.event-unknown",),
            ),
            Attack(
                title="init=/bin/sh on the disk's command line",
                act=_lie("disk-command-line", MEASURED_BOOT),
                told=_MEASUREMENT,
                findings=("rem.event-unknown",),
            ),
            Attack(
                title="another kernel, under the log of the trusted boot",
                act=_lie("cc-log-claimed", MEASURED_BOOT),
                told=_MEASUREMENT,
                findings=("rem.replay",),
            ),
            Attack(
                title="another kernel, its event labelled a harmless action",
                act=_lie("cc-log-relabelled", MEASURED_BOOT),
                told=_MEASUREMENT,
                findings=("rem.event-unknown",),
            ),
            Attack(
                title="events behind the padding of the firmware's log",
                act=_lie("cc-log-behind-padding", MEASURED_BOOT),
                told=_LOG,
                findings=("log.padding",),
            ),
        ),
    ),
    Group(
        "Bombs",
        (
            Attack(title="log record of 4 GiB", act=_lie("log-bomb-size"), told=_LOG, findings=("log.event-size",)),
            Attack(title="log record with 4 billion digests", act=_lie("log-bomb-count"), told=_LOG, findings=("log.digests",)),
            Attack(title="log of a megabyte of records", act=_lie("log-bomb-records"), told=_LOG, findings=("log.too-large",)),
            Attack(title="an exabyte of RAM in the log", act=_lie("ripas-bomb"), told=_LOG, findings=("plan.ripas",)),
            Attack(title="evidence of 3 MiB of brackets", act=_huge_body, told="too-large", instead="the body was not read"),
        ),
    ),
    Group(
        "The verifier",
        (
            Attack(
                title="verifier down: come again, nothing released",
                act=_without_verifier,
                told="503 verifier-unavailable",
                findings=("platform.not-judged",),
                verdict="unavailable",
            ),
            Attack(
                title="result signed by a foreign key",
                act=_with_verifier(key="foreign"),
                told=_PLATFORM,
                findings=("verifier.signature",),
            ),
            Attack(
                title="result of another session",
                act=_with_verifier("--fault", "wrong-nonce"),
                told=_PLATFORM,
                findings=("verifier.nonce",),
            ),
            Attack(
                title="result about other claims than ours",
                act=_with_verifier("--fault", "other-evidence"),
                told=_PLATFORM,
                findings=("verifier.evidence-mismatch",),
            ),
        ),
        together=False,  # there is one verifier
    ),
    Group(
        "Administration",
        (Attack(title="an auditor revokes an image", act=_auditor_revokes, told="access.role", instead="an auditor only reads"),),
    ),
)
