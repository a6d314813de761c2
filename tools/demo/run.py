"""Run the demo: ``make demo``, or ``python tools/demo/run.py --help``."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # this folder is the package ``demo``

from demo.play import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
