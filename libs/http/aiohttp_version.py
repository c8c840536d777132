"""The aiohttp version that our uses of its private attributes were tested with.

Two modules use private attributes: `bounded_connection` (limits on request heads, without which a process is not safe,
so it is used with every version) and `responses` (a pure speed-up, which is switched off on other versions). After an
update of aiohttp run tests/unit/test_bounded_connection.py and tests/unit/test_errors.py, then change the version here.
"""

import aiohttp
import structlog

TESTED_VERSION = "3.14.5"
IS_TESTED = aiohttp.__version__ == TESTED_VERSION

log = structlog.get_logger("process")


def warn_if_untested() -> None:
    """Log one warning if this process runs with another version of aiohttp."""
    if not IS_TESTED:
        log.warning("aiohttp_version_untested", version=aiohttp.__version__, tested=TESTED_VERSION)
