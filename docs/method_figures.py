"""Makes the two figures of docs/method.md, and the numbers beside them, from a made-up host with two states.

``python docs/method_figures.py`` writes ``docs/figures/rounds.svg`` and ``docs/figures/designs.svg``.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from mtexp.colours import BLUE, FAINT, RED
from mtexp.metrics.crossover import CrossoverFigures, compare
from mtexp.testing.two_states import BLOCK_S, SWITCH_S, Host

FOLDER = Path(__file__).parent / "figures"
SLOWDOWNS = (1.14, 1.4)
STP = sum(1 / slowdown for slowdown in SLOWDOWNS)
RUNS, ROUNDS = 60, 60
SPELL_S = (0.1, 10.0)
ITERATIONS_PCT = 1.0
"""Half width of the interval that 100 requests of one run give, when single requests differ by 5 %."""


def main() -> None:
    """Draw both figures; print what the second one says in numbers."""
    FOLDER.mkdir(exist_ok=True)
    draw_rounds(Host(np.random.default_rng(3), cores=2, seconds=3.0, spell_s=(0.3, 0.6)))
    rng = np.random.default_rng(1)
    apart = [Host(rng, seconds=40.0, spell_s=SPELL_S).separate(SLOWDOWNS, 1.0, 6.0) for _ in range(RUNS)]
    separate = np.array([sum(1 / slowdown for slowdown in run) for run in apart])
    turns = [
        compare(Host(rng, spell_s=SPELL_S).run(SLOWDOWNS, 0.0, redraw=True, count=ROUNDS), seed=i)
        for i, _ in enumerate(apart)
    ]
    draw_designs(separate, turns)
    say(separate, turns)


def draw_rounds(host: Host) -> None:
    """Three rounds of two tenants: blocks alone and together, over the state of their cores."""
    figure = Figure(figsize=(9, 2.4))
    FigureCanvasSVG(figure)
    axes = figure.add_axes((0.08, 0.24, 0.9, 0.68))
    at_s = 0.0
    for number in range(3):
        for active in host.rng.permutation(3):
            for tenant, colour in enumerate((BLUE, RED)):
                if active in (tenant, 2):
                    axes.barh(tenant, BLOCK_S, left=at_s, height=0.5, color=colour, alpha=1.0 if active == 2 else 0.45)
            at_s += BLOCK_S + SWITCH_S
        axes.axvline(at_s - SWITCH_S / 2, color=FAINT, linewidth=0.8, linestyle=":")
        axes.text(at_s - 1.5 * (BLOCK_S + SWITCH_S), 1.55, f"round {number}", ha="center", fontsize=8)
    for step, slow in enumerate(host.slow[: math.ceil(at_s / host.step_s)]):
        for tenant in (0, 1):
            if slow[tenant]:
                axes.barh(tenant, host.step_s, left=step * host.step_s, height=0.85, color=FAINT, alpha=0.35, zorder=0)
    axes.set(xlim=(0, at_s), ylim=(-0.5, 1.8), yticks=(0, 1), yticklabels=("a", "b"), xlabel="time (s)")
    save(figure, "rounds.svg")


def draw_designs(separate: np.ndarray, turns: list[CrossoverFigures]) -> None:
    """STP of fresh runs by design, with the interval that each run gives for itself."""
    figure = Figure(figsize=(9, 3))
    FigureCanvasSVG(figure)
    axes = figure.add_axes((0.08, 0.16, 0.9, 0.74))
    places = np.arange(RUNS)
    axes.errorbar(places, separate, yerr=separate * ITERATIONS_PCT / 100, fmt=".", color=RED, label="runs of their own")
    values = np.array([(run.run["stp"].low, run.run["stp"].value, run.run["stp"].high) for run in turns])
    reach = np.abs(values[:, [0, 2]] - values[:, [1]]).T
    axes.errorbar(places + RUNS + 3, values[:, 1], yerr=reach, fmt=".", color=BLUE, label="in turns")
    axes.axhline(STP, color=FAINT, linewidth=1)
    axes.set(xlabel="fresh runs of one point", ylabel="STP", xticks=())
    axes.legend(loc="upper right", fontsize=8)
    save(figure, "designs.svg")


def say(separate: np.ndarray, turns: list[CrossoverFigures]) -> None:
    """Print spread, coverage, and how often two runs of the same point are called different."""
    stp = [run.run["stp"] for run in turns]
    values, lows, highs = np.array([(interval.value, interval.low, interval.high) for interval in stp]).T
    half = (highs - lows) / 2
    pairs = [(i, i + 1) for i in range(0, RUNS, 2)]
    apart = [abs(separate[i] / separate[j] - 1) > math.hypot(ITERATIONS_PCT, ITERATIONS_PCT) / 100 for i, j in pairs]
    differ = [abs(values[i] - values[j]) > math.hypot(half[i], half[j]) for i, j in pairs]
    reach = STP * ITERATIONS_PCT / 100
    lines = [
        f"true STP {STP:.3f}; {RUNS} fresh runs of each design",
        f"runs of their own: SD {np.log(separate).std(ddof=1):.3f}, {separate.min():.2f} to {separate.max():.2f}; "
        f"intervals hold the truth in {100 * np.mean(np.abs(separate - STP) <= reach):.0f} %; "
        f"two of one point are called different in {100 * np.mean(apart):.0f} %",
        f"in turns: SD {np.log(values).std(ddof=1):.3f}, {values.min():.2f} to {values.max():.2f}; "
        f"intervals hold the truth in {100 * np.mean((lows <= STP) & (highs >= STP)):.0f} %; "
        f"two of one point are called different in {100 * np.mean(differ):.0f} %",
    ]
    sys.stdout.write("\n".join(lines) + "\n")


def save(figure: Figure, name: str) -> None:
    """Write an SVG without a date, so that the same numbers give the same file."""
    figure.savefig(FOLDER / name, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
