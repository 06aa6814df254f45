"""Stand-ins for ``nvidia-cuda-mps-control`` and ``nvidia-smi``: real programs and processes, and no GPU.

Lives here: :func:`install`, which puts executables into a directory for PATH, and the programs themselves: an
executable is this file under another name. The daemon runs in the foreground, opens its socket in the pipe directory,
writes logs, starts a server for its first client, answers control commands, and refuses what it does not know. May
touch: the standard library, since it runs without site packages.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:  # a test starts dozens of the programs: importing these would take them half of their time
    import subprocess
    from typing import Any

CONTROL, SERVER, SMI = "nvidia-cuda-mps-control", "nvidia-cuda-mps-server", "nvidia-smi"

BEHAVIOURS = ("normal", "exits", "silent", "deaf", "stubborn", "locked")
"""``exits`` at once; ``silent``: opens no socket; ``deaf``: answers nothing; ``stubborn``: hangs on quit and SIGTERM;
``locked``: answers nothing once the file ``lock`` exists beside the executable."""

_DEFAULTS: dict[str, Any] = {
    "behaviour": "normal",
    "version": 13000,
    "says_version": True,
    "clients": [],
    "namespace": "4026531836",
    "status": "ACTIVE",
    "percentage": 100.0,
    "compute_mode": "Default",
    "time_slice": "Default",
    "uuid": "GPU-cb1213a3-d6a4-be7f-0000-000000000000",
}


class StubMps:
    """The installed stand-ins; put :attr:`directory` first on PATH.

    :meth:`set` changes, also while a daemon runs: ``behaviour`` (:data:`BEHAVIOURS`), ``version``, ``says_version``,
    ``clients`` (pids), ``namespace``, ``status`` of the server, ``percentage``, ``compute_mode``, ``time_slice``,
    ``uuid``.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def control(self) -> str:
        """Path of the control binary."""
        return str(self.directory / CONTROL)

    def set(self, **changes: Any) -> None:
        """Change what the stand-ins do from the next command on.

        Raises:
            ValueError: There is no such setting.
        """
        if unknown := set(changes) - set(_DEFAULTS):
            raise ValueError(f"unknown settings {sorted(unknown)}; there are {sorted(_DEFAULTS)}")
        state = self.directory / "stub.json"
        aside = state.with_suffix(".new")
        aside.write_text(json.dumps(json.loads(state.read_text()) | changes))
        aside.replace(state)

    def commands(self) -> list[str]:
        """Every control command that a daemon has received, in order."""
        log = self.directory / "commands.log"
        return log.read_text().splitlines() if log.exists() else []


def install(directory: Path, **settings: Any) -> StubMps:
    """Write the stand-ins to ``directory`` and return them; ``settings`` as in :meth:`StubMps.set`."""
    directory.mkdir(parents=True, exist_ok=True)
    source = f"#!{sys.executable} -IS\n" + Path(__file__).read_text()
    for name in (CONTROL, SERVER, SMI):
        program = directory / name
        program.write_text(source)
        program.chmod(0o755)
    (directory / "stub.json").write_text(json.dumps(_DEFAULTS))
    stub = StubMps(directory)
    stub.set(**settings)
    return stub


# --- the programs -----------------------------------------------------------------------------------------------------


def _settings() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(__file__).parent / "stub.json").read_text())
    return found


def _write(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _log(name: str, text: str) -> None:
    who = "Control" if name == "control.log" else "Other"
    stamp = time.strftime("%Y-%m-%d %H:%M:%S.000")
    with (Path(os.environ["CUDA_MPS_LOG_DIRECTORY"]) / name).open("a") as file:
        file.write(f"[{stamp} {who:7} {os.getpid()}] {text}\n")


class _Daemon:
    def __init__(self, *, partitioning: bool) -> None:
        self._pipe = Path(os.environ["CUDA_MPS_PIPE_DIRECTORY"])
        self._partitioning, self._partitions = partitioning, 0
        self._server: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        settings = _settings()
        if settings["behaviour"] == "exits":
            _write("An instance of this daemon is already running")
            return 1
        if settings["behaviour"] == "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        (self._pipe / f"{CONTROL}.pid").write_text(str(os.getpid()))
        _log("control.log", f"Starting control daemon using socket {self._pipe}/control")
        _log("control.log", f"CUDA MPS Control binary version: {settings['version']}")
        if settings["behaviour"] == "silent":
            time.sleep(600)
        with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as privileged:
            privileged.bind(str(self._pipe / "control_privileged"))  # the longer name is what limits the directory
            listener.bind(str(self._pipe / "control"))
            listener.listen(64)
            while True:
                connection, _ = listener.accept()
                with connection:
                    if self._serve(connection):
                        return 0

    def _serve(self, connection: socket.socket) -> bool:
        """Answer one command; True at ``quit``."""
        behaviour = _settings()["behaviour"]
        command = connection.makefile().readline().strip()
        with (Path(__file__).parent / "commands.log").open("a") as file:
            file.write(command + "\n")
        locked = behaviour == "locked" and (Path(__file__).parent / "lock").exists()
        if behaviour == "deaf" or locked or (behaviour == "stubborn" and command.startswith("quit")):
            time.sleep(600)
        if command.startswith("quit"):
            if self._server is not None:
                self._server.terminate()
                self._server.wait()
            return True
        with contextlib.suppress(BrokenPipeError):
            connection.sendall(self._answer(command).encode())
        return False

    def _answer(self, command: str) -> str:
        settings = _settings()
        if settings["clients"] and (self._server is None or self._server.poll() is not None):
            self._start_server()
        server = "" if self._server is None else str(self._server.pid)
        match command.split():
            case ["get_server_list"]:
                return server + "\n"
            case ["get_server_status", pid] if pid == server:
                return f"{settings['status']}\n"
            case ["get_default_active_thread_percentage"] | ["get_active_thread_percentage", _]:
                return f"{settings['percentage']}\n"
            case ["ps"]:
                return self._ps(settings, server)
            case ["terminate_client", pid, client] if pid == server and int(client) in settings["clients"]:
                return "0\n"
            case ["sm_partition", "add", uuid, _] if self._partitioning:
                self._partitions += 1
                return f"{uuid}/{self._partitions}\n"
        return f"Unknown command: {command}\n"

    def _start_server(self) -> None:
        import subprocess

        self._server = subprocess.Popen([str(Path(__file__).parent / SERVER)], stdin=subprocess.DEVNULL)
        _log("control.log", f"NEW SERVER {self._server.pid}: Ready")

    def _ps(self, settings: dict[str, Any], server: str) -> str:
        device = "-".join(settings["uuid"].split("-")[:4])
        lines = [f"{'PID':<10}{'ID':<6}{'SERVER':<10}{'DEVICE':<25}{'NAMESPACE':<15}COMMAND"]
        lines += [
            f"{pid:<10}{0:<6}{server:<10}{device:<25}{settings['namespace']:<15}python -m mtexp.tenant"
            for pid in settings["clients"]
        ]
        return "\n".join(lines) + "\n"


def _control(arguments: list[str]) -> int:
    settings = _settings()
    new = settings["version"] >= 13010
    match arguments:
        case ["-v"] if settings["says_version"]:
            _write(f"CUDA MPS Control binary version: {settings['version']}")
            return 0
        case ["-f"]:
            return _Daemon(partitioning=False).run()
        case ["-f", "-S"] if new:
            return _Daemon(partitioning=True).run()
        case []:
            return _send(sys.stdin.readline().strip())
    _write(f"Unrecognized option: {arguments[-1]}")
    return 1


def _send(command: str) -> int:
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps") + "/control")
        except OSError:
            _write("Cannot find MPS control daemon process")
            return 1
        connection.sendall(command.encode() + b"\n")
        while chunk := connection.recv(65536):
            sys.stdout.write(chunk.decode())
    return 0


def _server() -> int:
    _log("server.log", "Startup")
    if _settings()["behaviour"] == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)
    return 0


def _smi(arguments: list[str]) -> int:
    settings = _settings()
    if "--query-gpu=compute_mode" in arguments and settings["compute_mode"]:
        _write(settings["compute_mode"])
        return 0
    if arguments[0] == "compute-policy" and settings["time_slice"]:
        bar = "+" + "-" * 37 + "+"
        rows = (
            "GPU compute policies:",
            "GPU     Name            Policy",
            f"  0     Time-slice      {settings['time_slice']}",
        )
        _write("\n".join([bar, *(f"| {row:<35} |" for row in rows), bar]))
        return 0
    _write("ERROR: Option is not recognized")
    return 1


def _main() -> int:
    program, arguments = Path(sys.argv[0]).name, sys.argv[1:]
    if program == SERVER:
        return _server()
    return _smi(arguments) if program == SMI else _control(arguments)


if __name__ == "__main__":
    sys.exit(_main())
