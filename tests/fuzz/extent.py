"""Number of examples: few and deterministic in `make test`, many and new ones in `make fuzz`."""

import os
from collections.abc import Callable
from typing import TypeVar

from hypothesis import HealthCheck, Phase, settings

TIMES = "FUZZ_TIMES"
"""Environment variable with the factor for a long run."""

T = TypeVar("T", bound=Callable[..., object])


def examples(count: int) -> Callable[[T], T]:
    """Try this many examples; in a long run, the factor times as many from its seed."""
    times = int(os.environ.get(TIMES, "0"))
    return settings(
        max_examples=count * max(1, times),
        derandomize=not times,
        database=None,
        deadline=None,
        # Without `explain`: it traces every line, but requests are handled by another process.
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
