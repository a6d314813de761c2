"""Write the ``[limits]`` table of ``config/kbs_rim.toml`` from ``kbs_rim/limits.py``, where the numbers and their reasons stand.

``make limits`` runs it; a test fails while the two differ.
"""

import sys
from dataclasses import fields
from pathlib import Path

from kbs_rim.limits import KIB, MIB, Limits

CONFIG = Path(__file__).resolve().parent.parent / "config" / "kbs_rim.toml"
HEADER = "[limits]\n"
PREFACE = "# A hostile token or log costs no more than these allow. Raise one only when a finding names it for evidence that you trust.\n"


def _readable(value: int, unit: str) -> str:
    if unit == "bytes" and value % KIB == 0:
        return f" ({value // MIB} MiB)" if value % MIB == 0 else f" ({value // KIB} KiB)"
    return ""


def limits_table() -> str:
    """The text of the table: unit, readable size and reason above each default."""
    lines = [HEADER, PREFACE]
    for item in fields(Limits):
        unit, reason = item.metadata["unit"], item.metadata["reason"]
        lines.append(f"# {unit}{_readable(item.default, unit)}: {reason}\n{item.name} = {item.default}\n")
    return "".join(lines)


def rewritten(text: str) -> str:
    """``text`` with its last table replaced by the current one."""
    return text.partition("\n" + HEADER)[0].rstrip("\n") + "\n\n" + limits_table()


if __name__ == "__main__":
    before = CONFIG.read_text(encoding="utf-8")
    after = rewritten(before)
    CONFIG.write_text(after, encoding="utf-8")
    sys.stdout.write(f"{CONFIG.name}: {'unchanged' if before == after else 'limits rewritten'}\n")
