"""The most expensive inputs that we know of, within the limits: CPU time, memory and calls, beside half of each. Prints only.

The table of docs/security.md states round numbers above these; tests hold what can be counted.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.worst_cases import appraisals, calls_of, cpu_of, parsers, peak_of

ROUNDS = 3


def main() -> None:
    """Print a table."""
    print(f"{'input':34} {'KiB':>6} {'CPU ms':>8} {'half':>8} {'MiB':>6} {'calls':>10}")
    for whole, half in zip([*parsers(), *appraisals()], [*parsers(0.5), *appraisals(0.5)], strict=True):
        cpu = [min(cpu_of(case.run) for _ in range(ROUNDS)) * 1000 for case in (whole, half)]
        peak, calls = peak_of(whole.run) / (1 << 20), calls_of(whole.run)
        print(f"{whole.name:34} {whole.size_bytes / 1024:6.0f} {cpu[0]:8.1f} {cpu[1]:8.1f} {peak:6.1f} {calls:10}")


if __name__ == "__main__":
    main()
