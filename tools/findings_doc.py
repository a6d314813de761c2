"""Write ``docs/findings.md`` from the catalogue: ``python tools/findings_doc.py``. A test fails when the two differ."""

from itertools import groupby
from pathlib import Path

from kbs_rim.appraisal.finding_catalogue import ENTRIES

DOCUMENT = Path(__file__).parent.parent / "docs" / "findings.md"
_STEPS = {
    0: "Before the appraisal",
    1: "Step 1: envelope and encoding",
    2: "Step 2: the token",
    3: "Step 3: the platform",
    4: "Step 4: the log",
    5: "Step 5: the RIM",
    6: "Step 6: the boot plan",
    7: "Step 7: the device tree",
    8: "Step 8: runtime measurements and realm claims",
    9: "Step 9: policy",
}


def render() -> str:
    """Return the document."""
    lines = [
        "# Findings",
        "",
        "Why an appraisal ended as it did. Ids are stable: they are never reused and never change their meaning. A guest is told only the",
        "*code* and a ticket number; administrators and auditors see the finding with what was expected and what was seen",
        "(`kbs-rim appraisal show TICKET`).",
        "",
        "This page is made from `kbs_rim/appraisal/finding_catalogue.py` by `tools/findings_doc.py`.",
    ]
    for step, entries in groupby(sorted(ENTRIES, key=lambda entry: entry.step), key=lambda entry: entry.step):
        lines += ["", f"## {_STEPS[step]}", "", "| id | what happened | what to do | code for the guest |", "|---|---|---|---|"]
        lines += [f"| `{entry.id}` | {entry.title} | {entry.remedy} | `{entry.code}` |" for entry in entries]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    DOCUMENT.write_text(render())
