"""A finding: something weak, where it is, what follows from it, and the remedy."""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit


class Severity(enum.StrEnum):
    """How bad it is."""

    HIGH = "high"
    """Somebody who should not can get in, or read what opens something."""
    MEDIUM = "medium"
    """One mistake or one leak elsewhere is enough for that."""
    LOW = "low"
    """More power, or a longer life, than is needed."""

    @property
    def rank(self) -> int:
        """0 for the worst."""
        return list(Severity).index(self)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the audit."""

    severity: Severity
    rule: str
    """The same for the same weakness, wherever it is: to filter by."""
    place: str
    """The setting, or the record."""
    weakness: str
    consequence: str
    remedy: str

    @property
    def line(self) -> str:
        """For a person."""
        return f"{self.severity:<6}  {self.place}: {self.weakness}; {self.consequence}. {self.remedy}"

    @property
    def fields(self) -> Mapping[str, str]:
        """For a program."""
        return {name: str(getattr(self, name)) for name in self.__slots__}


def in_order(findings: Sequence[Finding]) -> list[Finding]:
    """The worst first, and what belongs together together."""
    return sorted(findings, key=lambda finding: (finding.severity.rank, finding.rule, finding.place))


def is_plain_abroad(url: str) -> bool:
    """Whether what is sent there is in clear on a network: http, and not to this machine itself."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_this_machine(parts.hostname or "")


def is_this_machine(host: str) -> bool:
    """Whether nothing of what is sent there leaves the machine."""
    if host in {"", "localhost"} or host.startswith("/"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def is_container(host: str) -> bool:
    """Whether this is a name without a domain: of a container, mostly, on a network of the machine's own."""
    return "." not in host and ":" not in host
