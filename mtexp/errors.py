"""The errors mtexp raises. Lives here: one small tree. May touch: nothing.

MtexpError                 anything a user can act on; ``run.py`` prints it without a traceback
├── ConfigError            a key, its value, what is allowed, what to do
│   └── Misplaced          a key, its value, why it has no place here, what to do
├── HostError              the host cannot do what was asked (no GPU, no MPS binary, stale directory)
│   └── LeaseBusy          another mtexp run is measuring on the device
├── TenantFailed           a tenant raised, died, or missed a deadline
├── RunFailed              of the Python API: a run ended as FAILED; what was measured is in its result
├── TrackingError          MLflow could not be reached or refused
├── RecordError            a record, capture or trace from disk is not what it says it is
└── ProfilerError          a profiler is missing, too old or refused
    └── ProfilerUnusable   whatever it is asked next on this host, it would fail in the same way
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any


class MtexpError(Exception):
    """An error whose message tells the user what was found and what to do."""


class ConfigError(MtexpError):
    """A configuration value that cannot be used.

    Args:
        key: Dotted configuration key, as typed on the command line.
        value: What was given.
        allowed: What would have been accepted: a phrase, or the choices.
        remedy: What to do about it.
    """

    _before = "allowed: "

    def __init__(self, key: str, value: object, allowed: str | Iterable[str], remedy: str) -> None:
        self.key, self.value, self.remedy = key, value, remedy
        self.allowed = allowed if isinstance(allowed, str) else ", ".join(allowed)
        super().__init__(f"{key}={value}: {self._before}{self.allowed}. {remedy}")


class Misplaced(ConfigError):
    """A setting that has no value which would be right here: a sentence in place of ``allowed`` says why."""

    _before = ""


class HostError(MtexpError):
    """The host cannot do what was asked of it."""


class LeaseBusy(HostError):
    """Another mtexp run holds the device lease."""


class TenantFailed(MtexpError):
    """A tenant raised, died or missed a deadline.

    Args:
        tenant: Id of the tenant.
        phase: What it was doing: ``start``, ``build``, ``warm-up``, ``measure``, ``stop``.
        cause: One sentence.
        exit_code: Exit code, negative for a signal; None while it still ran.
        log: Its log file.
        log_tail: Last lines of the log.
    """

    def __init__(
        self,
        tenant: str,
        phase: str,
        cause: str,
        *,
        exit_code: int | None = None,
        log: Path | None = None,
        log_tail: str = "",
    ) -> None:
        self.tenant, self.phase, self.cause = tenant, phase, cause
        self.exit_code, self.log, self.log_tail = exit_code, log, log_tail
        self.remedy = ""
        super().__init__(tenant, phase, cause)

    def __str__(self) -> str:
        text = f"tenant {self.tenant} failed in {self.phase}: {self.cause}"
        if self.exit_code is not None:
            text += f" (exit code {self.exit_code})"
        if self.remedy:
            text += f". {self.remedy}"
        if self.log is not None:
            text += f"; log: {self.log}"
        return text + "".join(f"\n  | {line}" for line in self.log_tail.splitlines())


class RunFailed(MtexpError):
    """A run that was started from Python ended as FAILED.

    Args:
        result: What was measured (:class:`mtexp.api.Result`); its folder has the record and the logs.
    """

    def __init__(self, result: Any) -> None:
        self.result = result
        super().__init__(f"{result.record.failure} (record and logs: {result.folder})")


class TrackingError(MtexpError):
    """MLflow could not be reached, or refused what was sent."""


class RecordError(MtexpError):
    """Something read from disk (a record, a capture, a trace) is not what it says it is."""


class ProfilerError(MtexpError):
    """A profiler is missing, too old, without permission, or produced nothing."""


class ProfilerUnusable(ProfilerError):
    """A profiler does not work on this host, whatever it is to profile: no permission, no library, another one runs."""


def interrupted(stop: KeyboardInterrupt) -> str:
    """Return why a run failed that Ctrl-C or a signal ended: ``interrupted: SIGTERM``."""
    return f"interrupted: {str(stop) or 'Ctrl-C'}"


def interrupted_twice(error: BaseException | None) -> bool:
    """True for a Ctrl-C that came while another one was being handled: the user does not want to wait."""
    if not isinstance(error, KeyboardInterrupt):
        return False
    while (error := error.__context__) is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
    return False
