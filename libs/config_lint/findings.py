"""A finding of the config lint: a weakness, where it is, its consequence, and the remedy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from contracts.config_lint import Severity


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    severity: Severity
    rule: str
    """Identifies the kind of weakness, for filtering."""
    place: str
    """The setting or the record."""
    weakness: str
    consequence: str
    remedy: str

    @property
    def line(self) -> str:
        """The finding as a line of text."""
        return f"{self.severity:<6}  {self.place}: {self.weakness}; {self.consequence}. {self.remedy}"

    @property
    def fields(self) -> Mapping[str, str]:
        """The finding for JSON output."""
        return {name: str(getattr(self, name)) for name in self.__slots__}


def sorted_findings(findings: Sequence[Finding]) -> list[Finding]:
    """Sorted by severity, then rule, then place."""
    return sorted(findings, key=lambda finding: (finding.severity.rank, finding.rule, finding.place))


def is_unencrypted_remote(url: str) -> bool:
    """Whether requests to this URL cross a network unencrypted: http to anything but this machine."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_this_machine(parts.hostname or "")


def is_this_machine(host: str) -> bool:
    """Whether the host is this machine (loopback or a local socket)."""
    if host in {"", "localhost"} or host.startswith("/"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def is_container(host: str) -> bool:
    """Whether the host is a name without a domain, which is usually a container on a private network."""
    return "." not in host and ":" not in host
