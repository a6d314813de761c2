"""Words of messages that depend on a number."""


def counted(count: int, noun: str) -> str:
    """Return the number with its noun, which takes an s unless there is exactly one: ``1 RIM``, ``2 RIMs``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
