"""The pictures of README.md from real runs: ``python docs/pictures.py`` measures ``make demo`` again and takes them.

Needs tmux and Chromium. The report is that of the committed H200 study. Writes ``docs/figures/terminal.svg``,
``report.png`` and ``ui.png``, each smaller than 200 kB.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "docs" / "figures"
DEMO = "run -m mix=enc_only,dec_only,mixed"
COLUMNS = 100
ASSISTANT = 612
"""Columns of such a page that MLflow's Assistant takes, until it is closed."""
_FONT_FACE = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
_SESSION = f"mtexp-pictures-{os.getpid()}"
_PROMPT = "$ "


def main() -> int:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--demo", type=Path, help="a folder in which the demo has been run; default: run it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = options.demo or Path(made)
        if options.demo is None:
            terminal(folder)
        report(ROOT / "reports" / "archive" / "h200" / "report.html")
        interface(folder)
    return 0


def terminal(folder: Path) -> None:
    """Run the demo in a terminal of tmux, and keep what it shows at the end."""
    environment = f"PYTHONPATH={shlex.quote(str(ROOT))} PS1={shlex.quote(_PROMPT)}"
    command = f"{shlex.quote(sys.executable)} -m mtexp {DEMO}; echo THE-END; sleep 60"
    shell = f"cd {shlex.quote(str(folder))}; {environment} sh -c {shlex.quote(command)}"
    tmux("new-session", "-d", "-s", _SESSION, "-x", str(COLUMNS), "-y", "200", shell)
    try:
        while "THE-END" not in (shown := tmux("capture-pane", "-e", "-p", "-t", _SESSION)):
            time.sleep(1)
    finally:
        tmux("kill-session", "-t", _SESSION)
    lines = [line.rstrip() for line in shown.partition("THE-END")[0].rstrip().splitlines()]
    text = "\n".join([f"{_PROMPT}mtexp {DEMO}", *lines]).replace(str(folder), "/home/me/demo")
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(text))
    drawn = console.export_svg(title="make demo, on two CPU cores")
    FIGURES.joinpath("terminal.svg").write_text(_FONT_FACE.sub("", drawn), encoding="utf-8")


def report(page: Path) -> None:
    """The first screen of a report."""
    screenshot(page.as_uri(), FIGURES / "report.png", (1400, 810))


def interface(folder: Path) -> None:
    """The runs in MLflow, as ``mtexp ui`` opens them."""
    command = [sys.executable, "-m", "mtexp", "ui", "--port", "5077"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    server = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = server.stdout.readline().removeprefix("The runs: ").strip()
        screenshot(address, FIGURES / "ui.png", (2400, 430), cut=ASSISTANT)
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)


def screenshot(address: str, picture: Path, size: tuple[int, int], cut: int = 0) -> None:
    """Have Chromium draw a page, and write it with few colours, without the last ``cut`` columns."""
    with tempfile.TemporaryDirectory() as profile:
        drawn = Path(profile) / "page.png"
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}", "--virtual-time-budget=60000"]
        subprocess.run([*command, f"--screenshot={drawn}", address], check=True, stderr=subprocess.DEVNULL)
        with Image.open(drawn) as image:
            image.convert("RGB").crop((0, 0, size[0] - cut, size[1])).quantize(96).save(picture, optimize=True)


def tmux(*arguments: str) -> str:
    """Run tmux; returns what it prints."""
    return subprocess.run(["tmux", *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    sys.exit(main())
