"""One thing that was found in a run, and the verdict that findings add up to. Lives here: Finding. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

VALID, INVALID = "VALID", "INVALID"
_ALIKE = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found: what it is, what was expected, what to do."""

    level: str
    """``invalid`` (the run enters no aggregate), ``warning`` or ``note``."""
    code: str
    """Short, stable, lower case with hyphens: for tags and queries."""
    message: str
    """Names the tenant it is about."""
    remedy: str = ""
    tenant: str = ""
    """Id of the tenant it is about; empty = the run."""

    def __str__(self) -> str:
        """One line, ``level: message. remedy``."""
        return " ".join(f"{self.level}: {self.message.rstrip().removesuffix('.')}. {self.remedy}".split())


def sentences(findings: Iterable[Finding]) -> Iterator[str]:
    """Each finding as one line; of a kind the first three and how many more: 48 tenants may each have one."""
    for (level, code), alike in itertools.groupby(findings, key=lambda finding: (finding.level, finding.code)):
        said = list(alike)
        yield from map(str, said[:_ALIKE])
        if len(said) > _ALIKE:
            yield f"{level}: {len(said) - _ALIKE} more tenants like these ({code}); the record has them all."


def verdict_of(findings: Iterable[Finding]) -> str:
    """``INVALID`` with at least one finding of level ``invalid``, else ``VALID``."""
    return INVALID if any(finding.level == "invalid" for finding in findings) else VALID
