"""Seeds from the test vectors, read when they are needed: nothing is copied."""

from pathlib import Path

VECTORS = Path(__file__).parent.parent / "vectors"
SEEDS = Path(__file__).parent / "seeds"
"""What no vector has: small inputs of our own."""


def files(*patterns: str, most: int = 32 * 1024) -> list[bytes]:
    """Return the contents of all vectors that match and have at most ``most`` bytes, in the order of their names.

    Raises ``LookupError`` if a pattern matches nothing: a target without its seeds tests little.
    """
    found: list[bytes] = []
    for pattern in patterns:
        paths = sorted(path for path in VECTORS.glob(pattern) if path.is_file())
        if not paths:
            raise LookupError(f"no vector matches {pattern}")
        found += [path.read_bytes() for path in paths if path.stat().st_size <= most]
    return found


def own(folder: str) -> dict[str, bytes]:
    """Return the files of one folder of ``seeds``, by name without suffix."""
    return {path.stem: path.read_bytes() for path in sorted((SEEDS / folder).iterdir())}


def device_trees() -> list[bytes]:
    """Return the device trees. QEMU's, which were cut behind their strings, say so in their totalsize."""
    whole = files("vmm/dtb-public/*.dtb", "images/qemu-dtb/*.dtb")
    return [data[:4] + min(len(data), int.from_bytes(data[4:8], "big")).to_bytes(4, "big") + data[8:] for data in whole]
