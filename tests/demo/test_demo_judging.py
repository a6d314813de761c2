"""The demo says NO whenever an attack does not end as it must."""

from dataclasses import replace

import pytest
from demo.attacks import COSTLY_S, GROUPS, Attack, Judged, judge
from demo.guests import GOT_IT, Told, told_by
from demo.report import attack_row
from demo.wire import Message
from rich.console import Console
from rich.table import Table

from kbs_rim.appraisal.finding_catalogue import CATALOGUE

TICKET = "0123456789abcdef0123"
ATTACK = Attack(title="an attack", act=lambda theatre: TOLD, told="measurement-refused", findings=("rim.mismatch",))
TOLD = Told("measurement-refused", TICKET)


def record(*ids: str, verdict: str = "refused", releases: tuple = (), severity: str = "error", seconds: float = 0.01) -> dict:
    findings = [{"id": name, "severity": severity} for name in ids]
    return {
        "appraisal": {"verdict": verdict, "findings": findings, "durations_us": {"read": int(seconds * 1e6)}},
        "releases": list(releases),
    }


def test_the_expected_outcome():
    judged = judge(ATTACK, TOLD, record("rim.mismatch", "boot.overlap"))
    assert judged == Judged(ATTACK, TOLD, ("rim.mismatch", "boot.overlap"), 0.01, ())


@pytest.mark.parametrize(
    ("told", "found", "problem"),
    [
        (Told("log-refused", TICKET), record("rim.mismatch"), "told log-refused, not measurement-refused"),
        (Told(GOT_IT, TICKET, secret=b"x"), record("rim.mismatch"), "got an answer with a secret"),
        (TOLD, record("boot.overlap"), "does not see rim.mismatch"),
        (TOLD, record("rim.mismatch", severity="warning"), "does not see rim.mismatch"),
        (TOLD, record("rim.mismatch", verdict="allowed"), "verdict is allowed, not refused"),
        (TOLD, record("rim.mismatch", releases=({"version": 1},)), "something was released"),
        (TOLD, record("rim.mismatch", seconds=COSTLY_S + 1), "kept the broker busy"),
        (TOLD, None, "no record"),
    ],
)
def test_anything_else_is_a_problem(told, found, problem):
    judged = judge(ATTACK, told, found)
    assert [text for text in judged.problems if problem in text]


def test_an_attack_that_never_gets_to_evidence_needs_no_record():
    attack = replace(ATTACK, told="guest.challenge-not-ours", findings=())
    assert judge(attack, Told("guest.challenge-not-ours"), None).problems == ()


def test_every_attack_names_findings_and_codes_that_exist():
    attacks = [attack for group in GROUPS for attack in group.attacks]
    assert len({attack.title for attack in attacks}) == len(attacks)
    codes = {entry.code for entry in CATALOGUE.values()}
    for attack in attacks:
        assert set(attack.findings) <= set(CATALOGUE), attack.title
        if attack.findings and attack.verdict == "refused":
            assert attack.told in codes, attack.title
            assert attack.told in {CATALOGUE[name].code for name in attack.findings} | {"measurement-refused"}, attack.title


def shown(judged: Judged) -> str:
    console = Console(width=100, color_system=None, force_terminal=False)
    table = Table.grid(padding=(0, 2))
    table.add_row(*attack_row(judged))
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_a_row_shows_code_ticket_finding_and_cost():
    text = shown(judge(ATTACK, TOLD, record("rim.mismatch", "boot.overlap", "tree.initrd")))
    for part in ("ok", "an attack", "measurement-refused", TICKET, "rim.mismatch", "and 2 more", "10"):
        assert part in text
    assert "MISSING" not in text


def test_a_bad_row_shows_what_is_missing():
    text = shown(judge(ATTACK, Told("log-refused", TICKET), record("log.missing")))
    for part in ("NO", "rim.mismatch MISSING", "and log.missing", "log-refused"):
        assert part in text


def test_what_an_attacker_is_told_over_http():
    problem = Message("/", b'{"code": "challenge-refused", "ticket": "%s"}' % TICKET.encode(), {}, 403)
    assert told_by(problem, 0.5) == Told("challenge-refused", TICKET, 0.5)
    assert told_by(Message("/", b"<html>", {}, 502)) == Told("HTTP 502")
    released = told_by(Message("/", b'{"data": "e30..."}', {}, 200))
    assert released.secret is not None
    assert judge(ATTACK, released, record("rim.mismatch")).problems
