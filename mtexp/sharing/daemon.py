"""A private CUDA MPS daemon. A guardian process stops it even if the run is killed.

Lives here: the run's side of the guardian, and the cleanup after a killed guardian. May touch: the guardian process,
nvidia-cuda-mps-control, one private directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import secrets
import select
import stat
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtexp.errors import HostError
from mtexp.sharing import commands, guardian, parse
from mtexp.sharing.control import MpsControl

log = logging.getLogger(__name__)

SHORT = Path("/tmp")
"""Parent of private directories. TMPDIR may be too long for a socket address."""

START_S = 15.0
"""Deadline in seconds for the daemon's control socket, and again for its first answer."""

QUIT_S = 5.0
"""Seconds that ``quit`` waits for remaining clients."""

LOGS = ("mps-control.log", "mps-server.log")
"""Files that the guardian saves in the run's log folder."""

_STALE_S = 60.0
_LOGS = ".logs"
_TAIL_LINES = 8


class PrivateDaemon:
    """One control daemon in the foreground, in its own directory.

    Args:
        binary: Path of the control binary.
        gpu_uuid: The GPU it serves.
        logs: Existing directory that its logs are saved to.
        root: Where the private directory is made.
        static_partitioning: Start it with ``-S``.
    """

    def __init__(
        self, binary: str, gpu_uuid: str, logs: Path, *, root: Path = SHORT, static_partitioning: bool = False
    ) -> None:
        self._logs, self.directory = logs.resolve(), root / private_name()
        self._environment = commands.daemon_environment(
            os.environ, pipe=str(self.directory / "pipe"), logs=str(self.log_directory), gpu_uuid=gpu_uuid
        )
        self._command = commands.daemon_command(binary, static_partitioning=static_partitioning)
        self._guardian: subprocess.Popen[bytes] | None = None
        self._heard = b""
        self.control = MpsControl(binary, self._environment)

    @property
    def log_directory(self) -> Path:
        """Log folder of the running daemon and server."""
        return self.directory / "log"

    def start(self) -> None:
        """Start guardian and daemon, and wait until the daemon answers.

        Raises:
            HostError: It did not start. The message has the end of its log and a remedy. Everything is cleaned up.
        """
        pipe = self.control.pipe
        if len(pipe) > commands.MAX_PIPE_CHARS:
            raise HostError(
                f"the MPS directory {pipe} has {len(pipe)} characters and may have {commands.MAX_PIPE_CHARS}: with a "
                "longer one the daemon cannot open its sockets, and tenants run without MPS, silently. "
                "Use a shorter root directory"
            )
        try:
            for path in (self.directory, self.directory / "pipe", self.log_directory):
                path.mkdir(mode=0o700)
            self._launch_guardian()
            heard = self._hear(START_S + 5)
            if heard.get("event") != "ready":
                self.stop()  # saves the log
                raise HostError(self._start_failure(heard))
            self._ask_health()
        except OSError as error:
            self.stop()
            raise HostError(f"the MPS daemon's directory {self.directory} cannot be used: {error}") from error
        except BaseException:
            self.stop()
            raise

    def _launch_guardian(self) -> None:
        task = guardian.Task(
            command=self._command,
            directory=str(self.directory),
            logs=str(self._logs),
            start_s=START_S,
            quit_s=QUIT_S,
        )
        lock = _take_lock(self.directory)
        try:
            self._guardian = subprocess.Popen(
                [sys.executable, "-I", "-S", guardian.__file__, json.dumps(task)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=self._environment,
                cwd="/",
                pass_fds=[lock],
                start_new_session=True,  # the guardian ignores Ctrl-C in the terminal
            )
        finally:
            os.close(lock)  # the guardian keeps holding it

    def _hear(self, timeout_s: float) -> dict[str, Any]:
        """Return the next message of the guardian; empty if it has ended or the deadline passes."""
        if self._guardian is None or self._guardian.stdout is None:
            return {}
        pipe, deadline = self._guardian.stdout.fileno(), time.monotonic() + timeout_s
        while b"\n" not in self._heard:
            if not select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return {}
            chunk = os.read(pipe, 65536)
            if not chunk:
                return {}
            self._heard += chunk
        line, _, self._heard = self._heard.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def _ask_health(self) -> None:
        deadline = time.monotonic() + START_S
        while True:  # the socket exists shortly before the daemon answers
            try:
                answer = self.control.ask("get_default_active_thread_percentage")
                break
            except HostError as error:
                if time.monotonic() > deadline:
                    raise HostError(f"{error}\n{self.log_tail()}") from error
                time.sleep(0.02)
        if parse.percentage(answer) is None:
            raise HostError(f"the MPS daemon answers {answer.strip()!r}, not a percentage\n{self.log_tail()}")

    def _start_failure(self, heard: Mapping[str, Any]) -> str:
        found = {
            "exited": f"the MPS daemon ended at once (exit code {heard.get('code')})",
            "late": f"the MPS daemon did not open its socket in {START_S:g} s",
        }.get(str(heard.get("event")), "the guardian of the MPS daemon ended without a message")
        tail = "\n".join(filter(None, (str(heard.get("message", "")).strip(), self.log_tail())))
        return f"{found}. {start_remedy(tail)}\n{tail}".rstrip()

    def log_text(self) -> str:
        """The control log, live or saved; empty if there is none."""
        for path in (self.log_directory / "control.log", self._logs / LOGS[0]):
            with contextlib.suppress(OSError):
                return path.read_text(errors="replace")
        return ""

    def log_tail(self) -> str:
        """The last lines of the control log, indented."""
        return "\n".join(f"  | {line}" for line in self.log_text().splitlines()[-_TAIL_LINES:])

    def stop(self) -> None:
        """Let the guardian stop the daemon; if it fails, stop it here. Bounded in time and safe to call twice."""
        guard, self._guardian = self._guardian, None
        if guard is not None:
            self._stop_guardian(guard)
        if self.directory.exists():
            pids = guardian.kill_processes(str(self.directory))
            log.warning("MPS: the guardian did not finish; cleaned up %s, pids %s", self.directory, pids or "none")
            self._warn(guardian.save_and_remove(str(self.directory), str(self._logs)))

    def _stop_guardian(self, guard: subprocess.Popen[bytes]) -> None:
        try:
            said = self._heard + guard.communicate(b"stop\n", timeout=QUIT_S + 10)[0]
        except subprocess.TimeoutExpired:
            guard.kill()
            said = guard.communicate()[0]
        for line in said.splitlines():
            message = json.loads(line)
            if message.get("event") == "stopped":
                self._warn(message["problems"])
                log.info("MPS daemon stopped: %s", message)

    def _warn(self, problems: list[str]) -> None:
        for problem in problems:
            log.warning("MPS: %s", problem)


def start_remedy(tail: str) -> str:
    """Return the remedy for a daemon that ended at once, from its output."""
    for mark, remedy in _START_REMEDIES:
        if mark.lower() in tail.lower():
            return remedy
    return (
        "Known causes: a pipe directory of more than 80 characters, no permission for the GPU (nvidia-smi shows it?), "
        "a driver without CUDA MPS. Its log follows"
    )


_START_REMEDIES = (
    ("already running", "Another daemon uses this directory: stop it, or attach to it with mps_settings=external"),
    ("Unrecognized option", "This control binary does not know the option: see the driver's version (nvidia-smi)"),
    ("permission", "This user may not start it: check the permissions of /tmp and of the /dev/nvidia* files"),
    ("too long", "The directory's path is too long for a socket: use a shorter one"),
)


def private_name() -> str:
    """Return a short, unpredictable name for a private directory."""
    return f"mtexp-{os.getuid()}-{secrets.token_hex(4)}"


def _take_lock(directory: Path) -> int:
    """Lock ``directory`` for as long as the descriptor, or a copy of it, is open."""
    handle = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return handle


def sweep_stale(root: Path = SHORT) -> list[Path]:
    """Remove this user's private directories whose guardian was killed, and stop their daemons; return them.

    Their logs are kept in ``<directory>.logs``. A guardian locks its directory, so a directory in use is never removed.
    """
    swept = []
    for directory in sorted(root.glob(f"mtexp-{os.getuid()}-*")):
        if directory.suffix == _LOGS:
            continue
        with contextlib.suppress(OSError):  # in use (locked), or already removed
            found = directory.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
                continue
            if not (directory / "lock").exists() and time.time() - found.st_mtime < _STALE_S:
                continue  # being made
            os.close(_take_lock(directory))
            guardian.kill_processes(str(directory))
            logs = directory.with_suffix(_LOGS)
            logs.mkdir(mode=0o700, exist_ok=True)
            for problem in guardian.save_and_remove(str(directory), str(logs)):
                log.warning("MPS: %s", problem)
            if not any(logs.iterdir()):
                logs.rmdir()
            swept.append(directory)
            kept = f"; its logs are in {logs}" if logs.is_dir() else ""
            log.warning("MPS: removed %s, left by a run that was killed together with its guardian%s", directory, kept)
    return swept
