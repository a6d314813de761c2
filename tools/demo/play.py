"""The demo from beginning to end. Exit code 0: every outcome was the expected one; 1: one was not; 2: it could not be shown."""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from demo.administration import Prepared, add_people, prepare, register
from demo.attacks import GROUPS, Attack, Judged, Theatre, judge
from demo.guests import GOT_IT, Guests, Told
from demo.images import Image, ImagesUnavailable, images_from_debian, images_from_folder
from demo.processes import Interrupted, Processes, ServiceFailed
from demo.programs import CommandFailed, clean_environment
from demo.realms import THREE, VALUES, Vm
from demo.report import Report, make_console
from demo.site import Site

ROOT = Path(__file__).resolve().parents[2]
OK, UNEXPECTED, IMPOSSIBLE, INTERRUPTED = 0, 1, 2, 130
_CHALLENGE_LIFETIME_S = 5
"""The shortest that the configuration allows: the demo waits for one challenge to expire."""


def main() -> int:
    """Parse the command line, play, and clean up whatever happens."""
    parser = argparse.ArgumentParser(prog="make demo", description="Real realm images get their secrets, attacks do not.")
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
    except (ImagesUnavailable, ServiceFailed, CommandFailed) as error:
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
    began = time.monotonic()
    report.title("kbs_rim: three realms get their secrets, attackers do not")
    found = _images(report, images)
    began_to_play = time.monotonic()
    site = Site(folder, processes, report.command)
    theatre, prepared = _set_up(report, site, found, processes)
    theatre.send_late_evidence()
    good = _realms(report, theatre, prepared)
    judged = _attacks(report, theatre)
    good &= _closing(report, theatre, judged)
    seconds = time.monotonic() - began_to_play
    fetched = began_to_play - began
    extra = f" (and {fetched:.0f} s for the images)" if fetched > 1 else ""
    bad = sum(bool(item.problems) for item in judged)
    report.line()
    if good and not bad:
        report.line(
            f"Every outcome was the expected one: {len(THREE)} realms served, {len(judged)} attacks refused, {seconds:.0f} s{extra}.",
            "bold green",
        )
    else:
        report.line(
            f"NOT as expected: {bad} of {len(judged)} attacks{'' if good else ', and see above'}; {seconds:.0f} s{extra}.", "bold red"
        )
    _where_next(report, theatre, judged, keep=keep)
    return OK if good and not bad else UNEXPECTED


def _images(report: Report, folder: Path | None) -> dict[str, Image]:
    report.chapter("Images")
    images = images_from_folder(folder) if folder else images_from_debian(ROOT / ".demo" / "cache", report.line)
    rows = []
    for name, image in images.items():
        source = " ".join(filter(None, (image.provenance.get("package", str(folder)), image.provenance.get("package-version"))))
        rows.append((name, f"{image.path.stat().st_size / 1e6:5.1f} MB  {source}"))
    report.pairs(rows)
    return images


def _set_up(report: Report, site: Site, images: Mapping[str, Image], processes: Processes) -> tuple[Theatre, Prepared]:
    report.chapter("Services", "A verifier of platforms and two brokers on one database: separate programs with keys of their own.")
    with report.working("planning the VMs ..."):
        prepared = prepare(site, images)
    site.start_verifier()
    site.write_config("broker")
    site.write_config("replica", lifetime_s=_CHALLENGE_LIFETIME_S)
    add_people(site)
    waiting = [site.start_broker(name) for name in ("broker", "replica")]
    with report.working("waiting for the services ..."):
        broker, replica = (wait() for wait in waiting)
    report.pairs(
        (
            ("verifier", site.verifier_url),
            ("broker", f"{broker.guest_url} for guests, {broker.internal_url} for administrators and auditors"),
            ("replica", f"{replica.guest_url} for guests; its challenges live for {_CHALLENGE_LIFETIME_S} s"),
        )
    )
    report.chapter("The administrator", "Images are hashed here and only digests are sent; the broker never sees a kernel.")
    admin, auditor = site.person("admin", broker), site.person("auditor", broker)
    ids = register(admin, site, prepared)
    guests = Guests(site.local, prepared.paths, site.folder)
    return Theatre(site=site, guests=guests, broker=broker, replica=replica, admin=admin, auditor=auditor, images=ids), prepared


def _realms(report: Report, theatre: Theatre, prepared: Prepared) -> bool:
    about = (
        "Each boots, attests for a key of its own, and gets its secret if the RIM recomputed from the VMM's log is the one its RMM signed."
    )
    report.chapter("Three realms", about)
    rows, good = [], True
    for vm in THREE:
        with report.working(f"{vm.title} ..."):
            told = theatre.honest(vm)
        ok = told.code == GOT_IT and told.secret == VALUES[vm.key]
        good &= ok
        layout = prepared.layouts[vm.workload]
        rows.append(("ok" if ok else "NO", f"{vm.title}\n{vm.key}", _facts(theatre, told), f"{layout['rim'][:32]}...", _outcome(vm, told)))
    report.table(("", "realm and secret", "replayed as", "RIM", "outcome"), rows)
    return good


def _facts(theatre: Theatre, told: Told) -> str:
    if told.ticket is None:
        return "-"
    record = theatre.auditor.json("appraisal", "show", told.ticket)["appraisal"]
    return f"{record['facts'].get('dialect') or 'no match'}\n{record['facts'].get('hash_algorithm')}"


def _outcome(vm: Vm, told: Told) -> str:
    if told.code != GOT_IT or told.secret is None:
        return f"refused: {told.code} {told.message}"
    size = len(told.secret)
    same = f"{size} bytes, as stored" if told.secret == VALUES[vm.key] else f"{size} bytes, DAMAGED"
    return f"{same}\n{told.seconds:.1f} s, key {vm.key_type}"


def _attacks(report: Report, theatre: Theatre) -> list[Judged]:
    total = sum(len(attacks) for _, attacks in GROUPS)
    about = "A refusal tells the attacker a code and a ticket. The auditor looks the ticket up: kbs-rim appraisal show TICKET."
    report.chapter(f"{total} attacks", about)
    judged: list[Judged] = []
    for group, attacks in GROUPS:
        rows: list[Judged] = []
        for attack in attacks:
            with report.working(f"attack {len(judged) + len(rows) + 1} of {total}: {attack.title} ..."):
                rows.append(_carry_out(theatre, attack))
        report.line()
        report.attacks(group, rows)
        judged += rows
    return judged


def _carry_out(theatre: Theatre, attack: Attack) -> Judged:
    told = attack.act(theatre)
    record = theatre.auditor.json("appraisal", "show", told.ticket) if told.ticket else None
    return judge(attack, told, record)


def _closing(report: Report, theatre: Theatre, judged: list[Judged]) -> bool:
    """The verifier is back: the realm that was told to come again gets its secret; and nothing else was released, ever."""
    report.chapter("Afterwards")
    with report.working("starting the verifier again ..."):
        theatre.site.stop_verifier()
        theatre.site.start_verifier()
    vm = THREE[0]
    told = theatre.honest(vm)
    back = told.code == GOT_IT and told.secret == VALUES[vm.key]
    listed = theatre.auditor.json("appraisal", "list", "--verdict", "allowed", "--limit", "1000")["appraisals"]
    allowed = {item["id"] for item in listed}
    nothing_else = allowed == set(theatre.released)
    refused = len(theatre.auditor.json("appraisal", "list", "--verdict", "refused", "--limit", "1000")["appraisals"])
    expected = sum(1 for item in judged if item.attack.findings and item.attack.verdict == "refused")
    report.table(
        ("", "", ""),
        (
            ("ok" if back else "NO", "the verifier is back, and so is the realm that was told to come again", told.code),
            (
                "ok" if nothing_else else "NO",
                "appraisals that ended in a release, and realms that got a secret",
                f"{len(allowed)} and {len(theatre.released)}",
            ),
            (
                "ok" if refused == expected else "NO",
                "refusals on record, and attacks that got as far as evidence",
                f"{refused} and {expected}",
            ),
        ),
    )
    return back and nothing_else and refused == expected


def _where_next(report: Report, theatre: Theatre, judged: list[Judged], *, keep: bool) -> None:
    report.chapter("Where to look next")
    ticket = next((item.told.ticket for item in judged if item.told.ticket and "boot.entry-point" in item.seen), "TICKET")
    if not keep:
        report.pairs(
            (
                ("make demo ARGS=--keep", "the same, and leaves everything running for you to look at"),
                ("docs/architecture.md", "how it works"),
                ("docs/findings.md", "every reason for a refusal, and what to do about it"),
                ("tools/demo/workloads/", "what an administrator writes"),
                ("kbs-rim --help", "everything else (. .venv/bin/activate puts it on the PATH)"),
            )
        )
        return
    report.line("Everything is still running. In another terminal:")
    report.line(". .venv/bin/activate")
    report.line(f"export KBS_RIM_URL={theatre.broker.internal_url} KBS_RIM_TOKEN_FILE={theatre.site.folder / 'auditor.token'}")
    for command in (
        f"appraisal show {ticket}",
        "appraisal list --verdict refused",
        "image list",
        "workload show qemu-kernel",
        "secret list",
    ):
        report.line(f"kbs-rim {command}")
    report.line("Ctrl-C ends it.", "bold")
    signal.pause()
