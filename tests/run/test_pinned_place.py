"""Where a run goes and what its paths mean is decided when it is planned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mtexp.config.composer import Composer, quoted
from tests.run.run_helpers import Workplace, kind

QUICK = ("mix=bert_base", "baseline=skip")
HOSTILE = ("a b", "it's", 'q"x', "back\\", "a\\'b", "new\nline", "${x}", "a\\${x}", "ü€", "#?%20 =,()[]{}:~", "$HOME")


@pytest.mark.parametrize("text", HOSTILE)
def test_any_text_can_be_a_value_of_the_command_line(text: str) -> None:
    _, hydra = Composer().load([f"hydra.run.dir={quoted(text)}", "sweep=s"])
    assert hydra.run.dir == text


def test_the_folder_that_was_planned_is_the_one_that_is_used(workplace: Workplace) -> None:
    """The style of Hydra's own templates: each time it composes, ``${now:...}`` is another instant."""
    ran = workplace.run(*QUICK, "hydra.run.dir=logs/${now:%H-%M-%S-%f}")
    assert (ran.code, ran.err) == (0, "")
    (place,) = workplace.records("logs")
    assert f"Runs are in logs/{place}" in ran.out
    assert [path.name for path in (workplace.folder / "logs").iterdir()] == [place]


def test_a_job_in_its_own_folder_keeps_the_paths_of_the_plan(workplace: Workplace) -> None:
    """hydra.job.chdir=true: one store, beside which the command was typed; a relative trace is still found."""
    times = "\n".join(f"{i / 100}" for i in range(100))
    Path(workplace.folder, "trace.csv").write_text(f"arrival_s\n{times}\n")
    arguments = ("arrival=trace", "arrival.trace=trace.csv", "hydra.job.chdir=true", "sweep=s")
    ran = workplace.run("-m", "mix=bert_base,distilgpt2", "baseline=skip", *arguments)
    assert (ran.code, ran.err) == (0, "")
    assert len(workplace.mlflow_runs(kind("mix"))) == 2
    assert [path.parent for path in workplace.folder.rglob("mlflow.db")] == [workplace.folder]


def test_hydras_own_logging_can_be_chosen(workplace: Workplace) -> None:
    ran = workplace.run(*QUICK, "hydra/job_logging=disabled", "hydra/hydra_logging=none", "sweep=s")
    assert ran.code == 0


def test_a_path_that_hydra_cannot_write_down_is_refused(workplace: Workplace) -> None:
    ran = workplace.run(*QUICK, "hydra.run.dir='out/\\${x}'")
    assert ran.code == 2
    assert "hydra.run.dir" in ran.err
    assert not Path(workplace.folder, "out").exists()


def test_results_of_another_user_are_one_message(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    """outputs/ with mode 0700: even looking into it is refused."""

    for name in ("is_dir", "mkdir"):
        real = getattr(Path, name)

        def denied(self: Path, *arguments: object, real: Any = real, **keywords: object) -> Any:
            if self.parts[0] == "outputs":
                raise PermissionError(13, "Permission denied", str(self))
            return real(self, *arguments, **keywords)

        monkeypatch.setattr(Path, name, denied)
    ran = workplace.run(*QUICK, "sweep=s")
    assert ran.code == 2
    assert ran.err.startswith("outputs/s cannot be written: Permission denied.")
