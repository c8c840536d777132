"""How many examples, and which: few and the same in `make test`, many and new ones in every round of `make fuzz`."""

import os
from collections.abc import Callable
from typing import TypeVar

from hypothesis import HealthCheck, Phase, settings

TIMES = "FUZZ_TIMES"
"""The variable of the environment by which a long run says how many times as many examples it wants."""

T = TypeVar("T", bound=Callable[..., object])


def examples(count: int) -> Callable[[T], T]:
    """Try so many; in a long run that many times as many, drawn from its seed."""
    times = int(os.environ.get(TIMES, "0"))
    return settings(
        max_examples=count * max(1, times),
        derandomize=not times,
        database=None,
        deadline=None,
        # Not `explain`: it traces every line, and a request is answered by another process.
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
