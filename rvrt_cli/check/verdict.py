# SPDX-License-Identifier: Apache-2.0
"""What a check has found."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

# "note": worth knowing, and no failure; "skipped": could not be judged, and the text says why
Status = Literal["ok", "note", "fail", "skipped"]


@dataclass(frozen=True)
class Finding:
    """One line of a report.

    Attributes:
        name: what was looked at; stable, for programs.
        text: what was found, for a person.
        values: the figures behind it, plain values for JSON.
    """

    name: str
    status: Status
    text: str
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CheckReport:
    """All findings about a target."""

    source: str
    target: str
    findings: tuple[Finding, ...]

    @property
    def failures(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.status == "fail"]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `passed`: no finding is a failure."""
        return {
            "source": self.source,
            "target": self.target,
            "passed": not self.failures,
            "findings": [asdict(finding) for finding in self.findings],
        }


def number_ranges(numbers: list[int], most: int = 5) -> str:
    """Sorted numbers as text, "3, 7-9", with no more than `most` runs."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    words = [str(first) if first == last else f"{first}-{last}" for first, last in runs[:most]]
    more = len(runs) - most
    return ", ".join(words) + (f" and {more} more place{'s' * (more > 1)}" if more > 0 else "")
