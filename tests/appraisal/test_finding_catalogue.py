"""The catalogue is complete, its ids are well formed, and the page for readers says the same."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

from kbs_rim.appraisal.finding_catalogue import CATALOGUE, ENTRIES
from kbs_rim.appraisal.findings import Finding, Severity, errors_of
from kbs_rim.errors import MalformedEvidence

ROOT = Path(__file__).parent.parent.parent
RAISERS = {
    "Conflict", "Finding", "Forbidden", "InvalidDocument", "MalformedEvidence",
    "NotFound", "RefusedKey", "RefusedSource", "UnopenableSecret",
}  # fmt: skip


def _ids_used():
    for path in (ROOT / "kbs_rim").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in RAISERS and node.args:
                first = node.args[0]
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    yield first.value, f"{path.relative_to(ROOT)}:{node.lineno}"


def test_every_id_in_the_code_stands_in_the_catalogue():
    used = list(_ids_used())
    assert len(used) > 50
    assert [place for id_, place in used if id_ not in CATALOGUE] == []


def test_ids_are_well_formed_and_sentences_end():
    for entry in ENTRIES:
        assert re.fullmatch(r"[a-z]+\.[a-z0-9-]+", entry.id)
        assert entry.title.endswith(".")
        assert entry.remedy.endswith(".")
        assert 0 <= entry.step <= 9


def test_the_page_is_made_from_the_catalogue():
    spec = importlib.util.spec_from_file_location("findings_doc", ROOT / "tools" / "findings_doc.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.DOCUMENT.read_text() == module.render(), "run: python tools/findings_doc.py"


def test_an_unknown_id_is_a_bug():
    with pytest.raises(ValueError, match="catalogue"):
        Finding("no.such", "x")


def test_a_parser_error_becomes_a_finding_with_its_place():
    error = MalformedEvidence("log.truncated", "the log ends inside a record", offset=77, expected="20 bytes", seen="3")
    finding = Finding.from_error(error, log="vmm")
    assert finding.to_document() == {
        "id": "log.truncated", "severity": "error", "step": 4, "message": "the log ends inside a record", "expected": "20 bytes",
        "seen": "3", "where": {"log": "vmm", "offset": 77},
    }  # fmt: skip
    assert errors_of([finding, Finding("policy.accepted", "fine", Severity.NOTE)]) == (finding,)
