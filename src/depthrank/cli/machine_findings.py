"""What the doctor finds, in plain words: what is so, why it matters, what to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Finding:
    """``severity`` broken: must be put right; advice: would help."""

    severity: Literal["broken", "advice"]
    what: str
    why: str
    fix: str

    def __str__(self) -> str:
        return f"{self.what}; {self.fix}"


@dataclass
class Report:
    """versions and facts by name, and what was found."""

    versions: dict[str, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def broken(self) -> list[str]:
        """What must be put right, a line each."""
        return [str(finding) for finding in self.findings if finding.severity == "broken"]

    @property
    def advice(self) -> list[str]:
        """What would help, a line each."""
        return [str(finding) for finding in self.findings if finding.severity == "advice"]

    def fault(self, what: str, why: str, fix: str) -> None:
        """Something is broken."""
        self.findings.append(Finding("broken", what, why, fix))

    def advise(self, what: str, why: str, fix: str) -> None:
        """Something could be better."""
        self.findings.append(Finding("advice", what, why, fix))

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "versions": self.versions,
            "facts": self.facts,
            "broken": self.broken,
            "advice": self.advice,
            "findings": [asdict(finding) for finding in self.findings],
        }
