"""Samples of a request in the languages of clients: curl, Python, JavaScript and Go, made from recorded examples."""

from collections.abc import Callable, Mapping
from typing import Any

from contracts.generate.samples.curl import curl
from contracts.generate.samples.golang import golang
from contracts.generate.samples.javascript import javascript
from contracts.generate.samples.python import python
from contracts.generate.samples.requests import Shown, shown

LANGUAGES: Mapping[str, tuple[str, Callable[[Shown], str]]] = {
    "curl": ("Shell", curl),
    "Python": ("Python", python),
    "JavaScript": ("JavaScript", javascript),
    "Go": ("Go", golang),
}
"""By the label of a sample: the language's name for highlighters, and what writes it."""


def code_samples(example: Mapping[str, Any]) -> list[dict[str, str]]:
    """The `x-codeSamples` of an operation with this example. Secrets are read from environment variables."""
    request = shown(example)
    return [{"lang": lang, "label": label, "source": write(request)} for label, (lang, write) in LANGUAGES.items()]
