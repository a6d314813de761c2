"""``python -m kbs_rim.cli`` is the ``kbs-rim`` command."""

from kbs_rim.cli import main

if __name__ == "__main__":
    main()
