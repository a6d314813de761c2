# The compiled module, where there is one; _chain_kernel.c is its source.

MOST_STEPS: int

def extend(
    kind: int, rim: bytes, base: int, stride: int, count: int, digests: bytes | memoryview | None, portable: bool = False, /
) -> bytes: ...
def implementations() -> dict[str, str]: ...
