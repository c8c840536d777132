"""References in definitions that Tyk replaces when it reads them: environment variables, and values of key stores."""

import re

_REFERENCE = re.compile(r"(?i:env|secrets|consul|vault|file|kv)://|\$secret_|\$kv\{")
NOTHING_REPLACES = (
    "nothing replaces this reference here; write the value itself, or let `tokenwire migrate tyk` replace env://"
)


def is_reference(text: str) -> bool:
    """Whether Tyk would use another value in place of this text."""
    return _REFERENCE.search(text) is not None
