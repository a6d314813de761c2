"""How many random examples the expensive tests try: few by default, so that every change can afford every test, and more if asked.

``KBS_RIM_TEST_ROUNDS=10`` multiplies every count by ten. Without it, the counts are chosen so that no property takes seconds; what is
random is the same in every run of continuous integration, and new in every other run.
"""

import os

# A worker of a parallel run sees the environment of the run.
FACTOR = max(1, int(os.environ.get("KBS_RIM_TEST_ROUNDS", "1")))


def rounds(count: int) -> int:
    """``count`` examples, or as many times more as ``KBS_RIM_TEST_ROUNDS`` says."""
    return count * FACTOR
