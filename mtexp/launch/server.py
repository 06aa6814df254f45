"""The servers of a run: started one after another, watched, and ended with every process that they have started.

May touch: their guardians, their ports, their logs, /proc. Every wait has a deadline; a missed one names the tenant,
the seconds, what the server answered last and the end of its log.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from mtexp.errors import TenantFailed, interrupted_twice
from mtexp.launch import server_guardian as guardian
from mtexp.launch.endings import tail, why
from mtexp.processes import signals_postponed
from mtexp.served import ServerSpec, fill
from mtexp.spec import DeadlineSpec, TenantSpec

_LOOK_S = 0.05
_ANSWER_S = 2.0
_ENDED_S = 1.0
_STOP_MARGIN_S = 15.0
_LOG_BYTES = 2**20
_CONTEXT = """
import ctypes
driver, device, context = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(), ctypes.c_void_p()
driver.cuInit(0)
driver.cuDeviceGet(ctypes.byref(device), 0)
raise SystemExit(driver.cuCtxCreate_v2(ctypes.byref(context), 0, device))
"""
_CONTEXT_S = 30.0
_UVM = "/dev/nvidia-uvm"
"""What a process that uses CUDA has open."""


class Servers:
    """The servers of one run, as a context manager.

    Args:
        folder: Of the run; output goes to its ``logs`` folder.
        deadlines: Of the run.
        release: Called with the pid of a process before it is killed with work in flight (CUDA MPS).
    """

    def __init__(
        self, folder: Path, deadlines: DeadlineSpec, release: Callable[[int], None] = lambda pid: None
    ) -> None:
        self._folder, self._deadlines, self._release = folder, deadlines, release
        self._servers: dict[str, _Server] = {}

    def __enter__(self) -> Servers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, TenantFailed) and error.tenant in self._servers:
            self._servers[error.tenant].listen(_ENDED_S)  # tells a server that has ended from one that hangs
        word = b"kill\n" if interrupted_twice(error) else b"stop\n"
        for server in self._servers.values():
            server.say(word)
        for server in self._servers.values():
            server.finish(self._deadlines.stop_s + _STOP_MARGIN_S, self._release)

    def start(self, tenant: TenantSpec, environment: Mapping[str, str], cores: Sequence[int]) -> None:
        """Start the server of ``tenant`` and wait until it is ready.

        Args:
            tenant: Whose model is a server.
            environment: Of the sharing mode; an empty value unsets the variable.
            cores: CPU cores that it may use.

        Raises:
            TenantFailed: Its port is taken, it cannot be started, ended, forked away or did not become ready in time.
        """
        log = self._folder / "logs" / f"{tenant.id}.server.log"
        server = _Server(tenant, log, len(self._servers))
        if server.taken():
            host, port = server.place
            cause = f"port {port} of {host} is in use before its server starts: another program answers there"
            raise TenantFailed(tenant.id, "start", f"{cause}. Stop that one, or write {{port}} for a free one")
        stop_s = self._deadlines.stop_s / 2
        with signals_postponed():
            server.start(environment, cores, stop_s)
            self._servers[tenant.id] = server
        server.await_ready(self._deadlines.build_s)

    def settle(self, tenant: str, environment: Mapping[str, str]) -> None:
        """Make a CUDA context beside a server that is ready, in a process that ends at once.

        A lone process would be slower than one that has had a neighbour: see
        :func:`mtexp.tenant.device.make_a_second_context`, which is what other tenants do.
        """
        server = self._servers[tenant]
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run(
                [sys.executable, "-I", "-S", "-c", _CONTEXT],
                env=_environment(environment, server.mark),
                capture_output=True,
                timeout=_CONTEXT_S,
                check=False,
            )
            server.second_context = done.returncode == 0

    def url(self, tenant: str) -> str:
        """The URL of a request to the server of ``tenant``; empty without one."""
        return self._servers[tenant].url if tenant in self._servers else ""

    def values(self, tenant: str) -> dict[str, object]:
        """What the placeholders of the requests of ``tenant`` stand for; empty without a server."""
        return self._servers[tenant].values if tenant in self._servers else {}

    def check(self) -> None:
        """Raise TenantFailed if a server has ended."""
        for server in self._servers.values():
            server.check("measure")

    def blamed(self, failure: TenantFailed) -> TenantFailed:
        """The failure of a client, as that of its server if that had ended, with the server's log."""
        server = self._servers.get(failure.tenant)
        if server is None:
            return failure
        try:
            server.check(failure.phase)
        except TenantFailed as ended:
            return ended
        failure.log, failure.log_tail = server.log, "\n".join(tail(server.log)) or failure.log_tail
        return failure

    def pids(self) -> list[int]:
        """All processes of all servers."""
        return [pid for server in self._servers.values() for pid in server.pids()]

    def main_pids(self) -> dict[str, int]:
        """By tenant: the process of its server that uses CUDA first, else the one that was started."""
        return {name: next(iter(server.cuda_pids()), server.pid) for name, server in self._servers.items()}

    def facts(self) -> dict[str, dict[str, Any]]:
        """By tenant: what is seen of its server from outside."""
        return {
            name: {
                "server_pid": server.pid,
                "server_pids": server.pids(),
                "server_cuda_pids": server.cuda_pids(),
                "server_url": server.url,
                "server_position": server.position,
                "server_ready_after_s": server.ready_after_s,
                "second_context": server.second_context,
            }
            for name, server in self._servers.items()
        }


class _Server:
    def __init__(self, tenant: TenantSpec, log: Path, position: int) -> None:
        assert tenant.model.server is not None
        self.tenant, self.log, self.position = tenant, log, position
        self.spec: ServerSpec = tenant.model.server
        port = _free_port() if "{port}" in self.spec.url + "".join(self.spec.command) else 0
        self.values = placeholders(tenant, port)
        self.url = fill(self.spec.url, self.values)
        parts = urlsplit(self.url)
        self.place = (parts.hostname or "127.0.0.1", parts.port or 80)
        self.pid = 0
        self.ready_after_s = 0.0
        self.second_context = False
        self.mark = uuid.uuid4().hex
        self._guardian: subprocess.Popen[bytes] | None = None
        self._heard = b""
        self._ended: dict[str, Any] | None = None

    # starting

    def taken(self) -> bool:
        return _connects(self.place)

    def start(self, environment: Mapping[str, str], cores: Sequence[int], stop_s: float) -> None:
        task = guardian.Task(
            command=[fill(word, self.values) for word in self.spec.command],
            environment=_environment(environment, self.mark),
            folder=self.tenant.model.code_path or os.getcwd(),
            log=str(self.log.resolve()),
            cores=list(cores),
            stop_s=stop_s,
        )
        try:
            self._guardian = subprocess.Popen(
                [sys.executable, "-I", "-S", guardian.__file__, json.dumps(task)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is the run's to handle
            )
        except OSError as error:
            raise self._failed("start", f"its server cannot be started: {error}") from error

    def await_ready(self, build_s: float) -> None:
        began = time.monotonic()
        key = "server.ready_s" if self.spec.ready_s else "deadlines.build_s"
        limit_s = self.spec.ready_s or build_s
        while True:
            self.check("start")
            ready, seen = self._look()
            if ready:
                break
            if time.monotonic() - began > limit_s:
                raise self._failed("start", f"its server was not ready within {limit_s:g} s ({key}): {seen}")
            self._hear(_LOOK_S)
        self.listen(2 * _LOOK_S)  # one that forks away is ready, and gone
        self.check("start")
        self.ready_after_s = time.monotonic() - began

    def _look(self) -> tuple[bool, str]:
        """Whether the server is ready, and what was seen."""
        ready = fill(self.spec.ready, self.values) if self.spec.ready.startswith(("/", "http")) else self.spec.ready
        if not ready:
            return _connects(self.place), f"nothing answers at {self.place[0]}:{self.place[1]}"
        if ready.startswith("/"):
            ready = f"http://{self.place[0]}:{self.place[1]}{ready}"
        if ready.startswith("http"):
            return _answers(ready)
        return self._has_printed(ready), f"no line of its output matches {ready}"

    def _has_printed(self, pattern: str) -> bool:
        with contextlib.suppress(OSError), self.log.open("rb") as file:
            return re.search(pattern, file.read(_LOG_BYTES).decode(errors="replace"), re.MULTILINE) is not None
        return False

    # watching

    def listen(self, patience_s: float) -> None:
        """Wait for the end of the command, at most so long."""
        deadline = time.monotonic() + patience_s
        while self._ended is None and (rest_s := deadline - time.monotonic()) > 0:
            self._hear(min(rest_s, _LOOK_S))

    def check(self, phase: str) -> None:
        """Raise TenantFailed if the command has ended."""
        self._hear(0.0)
        if self._ended is None:
            return
        event, left = self._ended["event"], self._ended.get("left")
        if event == "failed":
            raise self._failed(phase, f"its server cannot be started: {self._ended['message']}")
        if event == "lost":
            raise self._failed(phase, "the guardian of its server was killed, and the server with it")
        code = int(self._ended["code"])
        if left:
            cause = f"its server's command ended (exit code {code}) and left {len(left)} processes behind: it forked "
            raise self._failed(phase, f"{cause}away. Start it in the foreground, without --daemon or &")
        cause = why(code).replace("the process", "its server")
        raise self._failed(phase, cause, code)

    def _hear(self, timeout_s: float) -> None:
        """Take the messages of the guardian that come within ``timeout_s``."""
        if self._guardian is None or self._guardian.stdout is None or self._ended is not None:
            time.sleep(timeout_s)
            return
        pipe = self._guardian.stdout.fileno()
        if not select.select([pipe], [], [], timeout_s)[0]:
            return
        chunk = os.read(pipe, 65536)
        if not chunk:
            self._ended = {"event": "lost"}
            return
        for message in self._messages(chunk):
            if message["event"] == "started":
                self.pid = int(message["pid"])
            elif message["event"] in ("ended", "failed"):
                self._ended = self._ended or message

    def _messages(self, chunk: bytes) -> list[dict[str, Any]]:
        *lines, self._heard = (self._heard + chunk).split(b"\n")
        return [json.loads(line) for line in lines]

    def pids(self) -> list[int]:
        """The processes of the server, the one that was started first."""
        return [] if self._guardian is None else sorted(guardian.descendants(self._guardian.pid))

    def cuda_pids(self) -> list[int]:
        return [pid for pid in self.pids() if _uses_cuda(pid)]

    # stopping

    def say(self, word: bytes) -> None:
        if self._guardian is not None and self._guardian.stdin is not None:
            with contextlib.suppress(OSError, ValueError):
                self._guardian.stdin.write(word)
                self._guardian.stdin.flush()

    def finish(self, patience_s: float, release: Callable[[int], None]) -> None:
        """Wait for the guardian, which ends everything; end what it has left, should it have been killed."""
        guard, deadline = self._guardian, time.monotonic() + patience_s
        if guard is None or guard.stdout is None or guard.stdin is None:
            return
        pipe = guard.stdout.fileno()
        while select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
            chunk = os.read(pipe, 65536)
            if not chunk:
                break
            for message in self._messages(chunk):
                if message["event"] == "killing":
                    for pid in message["pids"]:
                        release(pid)
                    self.say(b"go\n")
        guard.kill()
        guard.wait()
        for end in (guard.stdin, guard.stdout):
            with contextlib.suppress(OSError):
                end.close()
        self._guardian = None
        last = time.monotonic() + _ANSWER_S
        while (left := guardian.marked(self.mark)) and time.monotonic() < last:
            guardian.send(left, signal.SIGKILL)
            time.sleep(_LOOK_S / 5)

    def _failed(self, phase: str, cause: str, code: int | None = None) -> TenantFailed:
        lines = "\n".join(tail(self.log))
        return TenantFailed(self.tenant.id, phase, cause, exit_code=code, log=self.log, log_tail=lines)


def placeholders(tenant: TenantSpec, port: int) -> dict[str, object]:
    """What the placeholders of a command and of a request stand for."""
    load = tenant.workload
    return {
        "port": port,
        "python": sys.executable,
        "precision": tenant.precision,
        "execution": tenant.execution,
        "batch_size": load.batch_size,
        "seq_len": load.seq_len,
        "new_tokens": load.new_tokens,
        "seed": tenant.seed,
    }


def _environment(of_mode: Mapping[str, str], mark: str) -> dict[str, str]:
    environment = {"PYTHONUNBUFFERED": "1", **os.environ, guardian.MARK: mark}
    for name, value in of_mode.items():
        if value:
            environment[name] = value
        else:
            environment.pop(name, None)
    return environment


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _connects(place: tuple[str, int]) -> bool:
    try:
        with socket.create_connection(place, timeout=_ANSWER_S):
            return True
    except OSError:
        return False


def _answers(url: str) -> tuple[bool, str]:
    """Whether a URL answers with success, and what it answered."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=_ANSWER_S)
    try:
        connection.request("GET", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return False, f"{url}: {error or type(error).__name__}"
    finally:
        connection.close()
    return 200 <= status < 300, f"{url} answered {status}"


def _uses_cuda(pid: int) -> bool:
    with contextlib.suppress(OSError):
        for handle in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(handle.path).startswith(_UVM):
                    return True
    return False
