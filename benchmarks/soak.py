"""Short runs with a random process of the tree killed, stopped or interrupted at a random moment: what is left.

``python -m benchmarks.soak --runs 200 --seed 0`` prints a table, one row for each kind of process and signal, and ends
with 1 when something was left that should not be: a process, a run without a record though it had measured, a run
that MLflow shows as running after ``upload``, a file in TMPDIR or /dev/shm. Every wait has a limit. With ``--ctrl-c``
every run gets what Ctrl-C in a terminal sends: SIGINT to the whole process group.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from contextlib import closing, suppress
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
MARK = "MTEXP_SOAK"
"""In the environment of every process of a run: what still has it when the run has ended is an orphan."""
RUN = (
    *("runtime=cpu", "mix=pair", "baseline=skip", "workload.batch_size=1", "workload.seq_len=8", "sweep=s"),
    *("measure.iterations=300", "measure.warmup=2", "deadlines.stop_s=5", "deadlines.stall_s=15"),
)
SIGNALS = (signal.SIGKILL, signal.SIGSTOP, signal.SIGINT, signal.SIGTERM)
LONGEST_RUN_S = 600.0
"""One that hangs never ends; on a host with much else to do, an undisturbed one has taken three minutes."""
GONE_S = 20.0
FOUND = ("orphans", "lost samples", "RUNNING", "files", "too slow")


def main() -> int:
    """Run the soak; the exit code is 1 when anything was left."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest-s", type=float, default=1e9, help="begin no run after so many seconds")
    parser.add_argument("--ctrl-c", action="store_true", help="SIGINT to the process group, and nothing else")
    options = parser.parse_args()
    rng, begun = random.Random(options.seed), time.monotonic()
    runs: Counter[tuple[str, str]] = Counter()
    codes: defaultdict[tuple[str, str], Counter[int]] = defaultdict(Counter)
    left: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    with tempfile.TemporaryDirectory(prefix="soak-") as place:
        usual_s = _usual_s(Path(place) / "usual")
        for number in range(options.runs):
            if time.monotonic() - begun > options.longest_s:
                break
            what, code, found = _one(Path(place) / str(number), rng, usual_s, ctrl_c=options.ctrl_c)
            runs[what] += 1
            codes[what][code] += 1
            left[what].update(found)
            print(f"{number} {' '.join(what)}: exit code {code}, {dict(found) or 'nothing left'}", flush=True)
    print(f"\n{sum(runs.values())} runs, seed {options.seed}\n")
    print(f"| process | signal | runs | exit codes | {' | '.join(FOUND)} |\n|---|---|---:|---|{'---:|' * len(FOUND)}")
    for what in sorted(runs):
        ends = ", ".join(f"{code} ({count})" for code, count in sorted(codes[what].items()))
        print(f"| {what[0]} | {what[1]} | {runs[what]} | {ends} | {' | '.join(str(left[what][f]) for f in FOUND)} |")
    return 1 if any(sum(counter.values()) for counter in left.values()) else 0


def _usual_s(folder: Path) -> float:
    """Seconds of a run that nobody disturbs."""
    begun = time.monotonic()
    with _start(folder) as run:
        run.wait(LONGEST_RUN_S)
    return time.monotonic() - begun


def _start(folder: Path) -> subprocess.Popen[bytes]:
    (folder / "tmp").mkdir(parents=True)
    environment = os.environ | {MARK: str(folder), "TMPDIR": str(folder / "tmp"), "PYTHONPATH": str(ROOT)}
    environment |= {"MTEXP_LEASE_DIR": str(folder / "lease"), "PYTHONFAULTHANDLER": "1"}
    with (folder / "out").open("wb") as out:
        command = [sys.executable, str(ROOT / "run.py"), *RUN]
        return subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )


def _one(
    folder: Path, rng: random.Random, usual_s: float, *, ctrl_c: bool
) -> tuple[tuple[str, str], int, Counter[str]]:
    """One run, disturbed; returns (process and signal, exit code, what was left)."""
    shared = {path.name for path in Path("/dev/shm").iterdir()}
    moment, signum, draw = rng.uniform(0, usual_s), rng.choice(SIGNALS), rng.random()
    found: Counter[str] = Counter()
    run = _start(folder)
    with suppress(subprocess.TimeoutExpired):
        run.wait(moment)
    victim = _victim(run.pid, 0.0 if ctrl_c else draw)
    name = _kind(victim, run.pid) if victim else "ended before"
    if victim and ctrl_c:
        name, signum = "process group", signal.SIGINT
        with suppress(ProcessLookupError):
            os.killpg(run.pid, signum)
    elif victim:
        with suppress(psutil.NoSuchProcess):
            victim.send_signal(signum)
    if name == "run" and signum == signal.SIGSTOP:  # a stopped run is continued by the user who stopped it
        time.sleep(3)
        run.send_signal(signal.SIGCONT)
    try:
        code = run.wait(LONGEST_RUN_S)
    except subprocess.TimeoutExpired:
        found["too slow"] += 1
        run.send_signal(signal.SIGABRT)  # Python writes where each thread stands
        with suppress(subprocess.TimeoutExpired):
            run.wait(GONE_S)
        run.kill()
        code = run.wait()
        print((folder / "out").read_text(errors="replace")[-8000:])
    found["orphans"] += _orphans(str(folder))
    upload = [sys.executable, "-m", "mtexp.tracking.upload", "outputs"]
    with (folder / "upload").open("wb") as out:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        subprocess.run(upload, cwd=folder, env=environment, stdout=out, stderr=out, check=False, timeout=LONGEST_RUN_S)
    found["lost samples"] += len([*folder.glob("outputs/**/samples-*.bin"), *folder.glob("outputs/**/begun.json")])
    found["RUNNING"] += _running(folder / "mlflow.db")
    new = {path.name for path in Path("/dev/shm").iterdir()} - shared
    killed = signum == signal.SIGKILL and name == "run"  # Python itself leaves its empty folder then
    own = ["torchinductor_", *(["pymp-"] if killed else [])]  # torch's cache, for later runs
    found["files"] += sum(not path.name.startswith(tuple(own)) for path in (folder / "tmp").iterdir())
    found["files"] += sum(str(run.pid) in name for name in new)
    return (name, signal.Signals(signum).name), code, +found


def _victim(pid: int, draw: float) -> psutil.Process | None:
    try:
        root = psutil.Process(pid)
        tree = [root, *root.children(recursive=True)]
        return tree[int(draw * len(tree))] if root.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def _kind(process: psutil.Process, run: int) -> str:
    if process.pid == run:
        return "run"
    try:
        words = " ".join(process.cmdline())
        parent = process.ppid()
    except psutil.Error:
        return "ended before"
    if "resource_tracker" in words:
        return "resource tracker"
    if "forkserver" in words:
        return "forkserver" if parent == run else "tenant or sampler"
    return "other child"


def _orphans(mark: str) -> int:
    """Processes of the run that are there :data:`GONE_S` after its end; they are killed."""
    end, left = time.monotonic() + GONE_S, _marked(mark)
    while left and time.monotonic() < end:
        time.sleep(0.2)
        left = _marked(mark)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    return len(left)


def _marked(mark: str) -> list[psutil.Process]:
    marked = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                marked.append(process)
    return marked


def _running(store: Path) -> int:
    if not store.is_file():
        return 0
    with closing(sqlite3.connect(store)) as connection:
        query = "select count(*) from runs where status = 'RUNNING' and lifecycle_stage = 'active'"
        with suppress(sqlite3.OperationalError):  # killed before MLflow had made its tables
            return int(connection.execute(query).fetchone()[0])
    return 0


if __name__ == "__main__":
    sys.exit(main())
