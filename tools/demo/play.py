"""The demo from beginning to end. Exit code 0: every outcome was the expected one; 1: one was not; 2: it could not be shown."""

import argparse
import http.client
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

from demo.administration import Prepared, found, prepare, register
from demo.attacks import GROUPS, Attack, Judged, Theatre, judge
from demo.guests import GOT_IT, Guests, Told
from demo.images import Image, ImagesUnavailable, images_from_debian, images_from_folder
from demo.processes import Interrupted, Processes, ServiceFailed
from demo.programs import CommandFailed, clean_environment
from demo.realms import SERVED, VALUES, Vm
from demo.report import PLAIN_COLUMNS, Report, make_console
from demo.site import Site

ROOT = Path(__file__).resolve().parents[2]
OK, UNEXPECTED, IMPOSSIBLE, INTERRUPTED = 0, 1, 2, 130
_CHALLENGE_LIFETIME_S = 5
"""The shortest that the configuration allows: the demo waits for one challenge to expire."""
_CREW = 3
"""Two attacks at a time, and the one that waits."""
_IMPOSSIBLE = (ImagesUnavailable, ServiceFailed, CommandFailed)


def main() -> int:
    """Parse the command line, play, and clean up whatever happens."""
    parser = argparse.ArgumentParser(prog="make demo", description="Realms get their secrets, attackers do not.")
    parser.add_argument("--images", type=Path, default=os.environ.get("IMAGES") or None, help="folder with linux, initrd.gz, QEMU_EFI.fd")
    parser.add_argument("--keep", action="store_true", help="leave everything running at the end, until Ctrl-C")
    options = parser.parse_args()
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    report = Report(make_console())
    runs = ROOT / ".demo" / "run"
    runs.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=runs, prefix=time.strftime("%Y%m%d-%H%M%S-")))
    code = IMPOSSIBLE
    try:
        with Processes(clean_environment()) as processes:
            code = _play(report, processes, folder, options.images, keep=options.keep)
    except _IMPOSSIBLE as error:
        report.line(f"\nThe demo could not be shown. {error}", "bold red")
    except Interrupted as error:
        code = INTERRUPTED
        report.line(f"\nInterrupted ({error}); everything that was started is ended.")
    if code in (OK, INTERRUPTED):
        shutil.rmtree(folder, ignore_errors=True)
    else:
        report.line(f"Logs and files: {folder}")
    return code


def _play(report: Report, processes: Processes, folder: Path, images: Path | None, *, keep: bool) -> int:
    report.title("kbs_rim: realms get their secrets, attackers do not")
    report.line("Images, measurements, signatures and judgements are real. The hardware is not: an RMM is modelled, with keys made here.")
    began = time.monotonic()
    available = _images(report, images)
    fetched_s = time.monotonic() - began
    with report.working("starting ..."):
        theatre, prepared = _set_up(report, Site(folder, processes, report.command), available)
    theatre.send_late_evidence()
    served = _realms(report, theatre, prepared)
    judged = _attacks(report, theatre)
    tidy = _afterwards(report, theatre, judged)
    bad = sum(bool(item.problems) for item in judged)
    good = served and tidy and not bad
    seconds = f"{time.monotonic() - began - fetched_s:.0f} s" + (f", and {fetched_s:.0f} s for the images" if fetched_s > 1 else "")
    report.line()
    if good:
        result = f"Everything went as it must: {len(SERVED)} realms served, {len(judged)} attacks refused; {seconds}."
    else:
        result = (
            f"NOT as expected: {bad} of {len(judged)} attacks" + ("" if served and tidy else ", and what is marked NO") + f"; {seconds}."
        )
    report.line(result, "bold green" if good else "bold red")
    _where_next(report, theatre, judged, keep=keep)
    return OK if good else UNEXPECTED


def _images(report: Report, folder: Path | None) -> dict[str, Image]:
    report.chapter("Images")
    images = images_from_folder(folder) if folder else images_from_debian(ROOT / ".demo" / "cache", report.line)
    rows = []
    for name, image in images.items():
        source = " ".join(filter(None, (image.provenance.get("package", str(folder)), image.provenance.get("package-version"))))
        rows.append((name, f"{image.path.stat().st_size / 1e6:5.1f} MB  {source}"))
    report.pairs(rows)
    return images


def _set_up(report: Report, site: Site, images: Mapping[str, Image]) -> tuple[Theatre, Prepared]:
    about = "What each VM will be: its device tree, to be registered. And what the makers of its machine endorse, for the verifier."
    report.chapter("Machines and VMs", about)
    prepared = prepare(site, images)
    report.chapter("Services", "A verifier of platforms, and two brokers on one database: separate programs with keys of their own.")
    site.start_verifier()
    site.write_config("broker")
    site.write_config("replica", lifetime_s=_CHALLENGE_LIFETIME_S)
    found(site)
    waiting = [site.start_broker(name) for name in ("broker", "replica")]
    broker, replica = (wait() for wait in waiting)
    report.pairs(
        (
            ("verifier", site.verifier_url),
            ("broker", f"{broker.guest_url} for guests, {broker.internal_url} for administrators and auditors"),
            ("replica", f"{replica.guest_url} for guests; its challenges live for {_CHALLENGE_LIFETIME_S} s"),
        )
    )
    report.chapter("The administrator", "Images are hashed on the administrator's side; the broker gets digests and never sees a kernel.")
    admin, auditor, crew = site.person("admin", broker), site.person("auditor", broker), ThreadPoolExecutor(_CREW)
    ids = register(admin, site, prepared, crew)
    guests = Guests(site.local, prepared.paths, site.folder)
    return Theatre(site=site, guests=guests, broker=broker, replica=replica, admin=admin, auditor=auditor, images=ids, crew=crew), prepared


# --- realms -----------------------------------------------------------------------------------------------------------


def _realms(report: Report, theatre: Theatre, prepared: Prepared) -> bool:
    about = (
        "Each boots, makes a key, attests, and gets its secret sealed to that key: the RIM that the broker computes from the VMM's "
        "log is the one that the RMM signed, and the boot plan is what the workload allows. One has no log: the broker looks for its RIM "
        "among the VMs that the workload defines. The last one starts with firmware that "
        "measures kernel, initrd and command line of its disk: the firmware's log must replay to the REMs, and each event be let in."
    )
    report.chapter(f"{len(SERVED)} realms", about)
    rows, good = [], True
    for vm in SERVED:
        with report.working(f"{vm.title} ..."):
            told = theatre.honest(vm, echo=True)
        ok = told.code == GOT_IT and told.secret == VALUES[vm.key]
        good &= ok
        rim = prepared.layouts[vm.workload]["rim"]
        rows.append(("ok" if ok else "NO", f"{vm.title}\n{vm.key}", f"{rim[:16]}...", _replay(theatre, told), _outcome(vm, told)))
    report.line()
    report.table(("", "realm and secret", "RIM", "replayed as", "outcome"), rows)
    return good


def _replay(theatre: Theatre, told: Told) -> str:
    if told.ticket is None:
        return "-"
    facts = theatre.auditor.json("appraisal", "show", told.ticket)["appraisal"]["facts"]
    found = facts.get("definition")
    derived = f"\nVM {found.get('number', '-')} of {found['vms']}" if found else ""
    return f"{facts.get('dialect') or 'no match'}\n{facts.get('hash_algorithm')}{derived}"


def _outcome(vm: Vm, told: Told) -> str:
    if told.secret is None:
        return f"refused: {told.code} {told.message}"
    same = "byte for byte" if told.secret == VALUES[vm.key] else "DAMAGED"
    return f"{len(told.secret)} bytes, {same}\n{told.seconds:.1f} s, guest's key {vm.key_type}"


# --- attacks ----------------------------------------------------------------------------------------------------------


def _attacks(report: Report, theatre: Theatre) -> list[Judged]:
    total = sum(len(group.attacks) for group in GROUPS)
    about = (
        "A refusal tells the attacker a code and a ticket, nothing else. The auditor looks the ticket up (kbs-rim appraisal show) and "
        "must see the findings named here; others may come with them. ms: what it cost the broker."
    )
    report.chapter(f"{total} attacks", about)
    judged: list[Judged] = []
    for group in GROUPS:
        with report.working(f"{group.title}: {len(group.attacks)} attacks ..."):
            carry_out = partial(_carry_out, theatre)
            rows = list(theatre.crew.map(carry_out, group.attacks) if group.together else map(carry_out, group.attacks))
        report.line()
        report.attacks(group.title, rows)
        judged += rows
    return judged


def _carry_out(theatre: Theatre, attack: Attack) -> Judged:
    """Carry it out and look it up; what breaks is an outcome that nobody expected."""
    try:
        told = attack.act(theatre)
        record = theatre.auditor.json("appraisal", "show", told.ticket) if told.ticket else None
    except (OSError, ValueError, LookupError, http.client.HTTPException, CommandFailed, ServiceFailed) as error:
        return judge(attack, Told(type(error).__name__, message=str(error)), None)
    return judge(attack, told, record)


# --- the end ----------------------------------------------------------------------------------------------------------


def _afterwards(report: Report, theatre: Theatre, judged: list[Judged]) -> bool:
    """Check that the verifier's failure did no lasting harm, and that nothing was released or forgotten that should not be."""
    report.chapter("Afterwards")
    with report.working("starting the verifier again ..."):
        theatre.site.stop_verifier()
        theatre.site.start_verifier()
        told = theatre.honest(SERVED[0])
        allowed, refused = ({item["id"] for item in _listed(theatre, verdict)} for verdict in ("allowed", "refused"))
    checks = [
        (told.secret == VALUES[SERVED[0].key], "the verifier is back, and the realm that was told to come again has its secret"),
        (allowed == set(theatre.released), f"{len(allowed)} releases are on record: those to honest realms, no other"),
        (
            refused == {item.told.ticket for item in judged if item.attack.verdict == "refused" and item.told.ticket},
            f"{len(refused)} refusals are on record: every attack that got as far as evidence",
        ),
    ]
    for good, text in checks:
        report.check(good, text)
    for broker in (theatre.broker, theatre.replica):
        broker.service.check()
    if (peak := theatre.broker.peak_megabytes()) is not None:
        report.line(f"    The broker never used more than {peak:.0f} MB of memory.")
    return all(good for good, _ in checks)


def _listed(theatre: Theatre, verdict: str) -> list[dict[str, str]]:
    listed: list[dict[str, str]] = theatre.auditor.json("appraisal", "list", "--verdict", verdict, "--limit", "1000")["appraisals"]
    return listed


def _where_next(report: Report, theatre: Theatre, judged: list[Judged], *, keep: bool) -> None:
    ticket = next((item.told.ticket for item in judged if "plan.unmeasured" in item.seen and item.told.ticket), None)
    if ticket is not None:
        report.chapter("What an auditor reads, for example")
        report.command(f"kbs-rim appraisal show {ticket}")
        shown = theatre.auditor.run("appraisal", "show", ticket, environment={"COLUMNS": str(PLAIN_COLUMNS)})
        report.verbatim(shown.stdout.decode().rstrip())
    report.chapter("Where to look next")
    if not keep:
        report.pairs(
            (
                ("make demo ARGS=--keep", "the same again, left running for you to look at"),
                ("tools/demo/workloads/", "what an administrator writes to describe a realm"),
                ("docs/architecture.md", "how it works, and where the code is"),
                ("docs/findings.md", "every reason for a refusal, and what to do about it"),
                (".venv/bin/kbs-rim --help", "all commands"),
            )
        )
        return
    report.line("Everything is still running. In another terminal:")
    commands = (f"appraisal show {ticket}", "appraisal list --verdict refused", "image list", "workload show qemu-kernel", "secret list")
    report.verbatim("  . .venv/bin/activate")
    report.verbatim(f"  export KBS_RIM_URL={theatre.broker.internal_url}")
    report.verbatim(f"  export KBS_RIM_TOKEN_FILE={theatre.site.folder / 'auditor.token'}")
    report.verbatim("\n".join(f"  kbs-rim {command}" for command in commands))
    report.line(f"Guests ask at {theatre.broker.guest_url}. Ctrl-C here ends everything.", "bold")
    with suppress(Interrupted):
        signal.pause()
