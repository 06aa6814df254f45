"""Names of folders, files, experiments and mixes that mean something else to a shell, a URI, a format or a database."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from analysis import export, fetch, report
from mtexp.config.composer import quoted
from mtexp.records.record import load
from mtexp.tracking import upload
from mtexp.tracking.uri import sqlite_uri
from tests.records.test_salvage import _begun
from tests.run.run_helpers import SMALL, Workplace

NAMES = ("100%25 %2F?a=b&c#d;e", 'it\'s "a":\\b `c`\n\td', f" -ünï €🙂{'x' * 190}")
MIX = "tags.mtexp.kind = 'mix'"


@pytest.mark.parametrize("name", NAMES)
def test_a_name_goes_through_the_whole_story(
    tmp_path: Path, made_store: bytes, nothing_left: None, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A run is measured, found, exported, reported and sent to a second, new store; one that was killed is salvaged.

    ``name`` is that of the current folder, TMPDIR, the run's folder, trace, mix, experiment, export, report and store.
    """
    place, experiment = tmp_path / name, " ".join(name.split())
    (place / "temporary" / name).mkdir(parents=True)
    (place / "mlflow.db").write_bytes(made_store)
    (place / f"{name}.csv").write_text("arrival_s\n" + "\n".join(f"{i / 100}" for i in range(30)))
    monkeypatch.setenv("TMPDIR", str(place / "temporary" / name))
    monkeypatch.setattr(tempfile, "tempdir", None)
    with Workplace.at(place) as workplace:
        texts = {
            "arrival.trace": f"{name}.csv",
            "mix.name": name,
            "tracking.experiment": experiment,
            "hydra.run.dir": f"out/{name}",
        }
        usual = ("mix=bert_base", "baseline=skip", "arrival=trace", "measure.iterations=20")
        ran = workplace.run(*usual, *(f"{key}={quoted(text)}" for key, text in texts.items()))
        assert (ran.code, ran.err) == (0, "")
        assert load(place / "out" / name).run_spec.mix == name
        assert [path.parent for path in place.rglob("mlflow.db")] == [place]

        assert len(fetch.iterations(MIX, experiment=experiment)) >= 20
        source = f"--experiment={experiment}"
        assert fetch.main([source, MIX]) == 0
        assert export.main([source, MIX, f"export{name}"]) == 0
        assert report.main(["--records", f"export{name}", "--out", f"report{name}", "--no-images"]) == 0
        assert (place / f"report{name}" / "report.html").is_file()

        store = sqlite_uri(place / f"{name}.db")
        _begun(place / "killed" / name)
        assert upload.main([".", "--uri", store]) == 0
        assert (place / f"{name}.db").is_file()
        assert load(place / "killed" / name).status == "FAILED"
        assert len(fetch.runs(uri=store, experiment=experiment)) == len(fetch.runs(uri=store)) == 1


@pytest.mark.parametrize("name", ["a b", "100%", "it's", "a\nb", "../a", "ü", "x" * 200, "${oc.env:HOME}"])
@pytest.mark.parametrize("key", ["mix.tenants.a.name", "sweep"])
def test_what_names_a_folder_is_letters_and_digits(workplace: Workplace, key: str, name: str) -> None:
    ran = workplace.run("mix=solo", "baseline=skip", f"{key}={quoted(name)}")
    assert ran.code == 2
    assert ran.err.startswith(f"refused: {key}=")
    assert sorted(path.name for path in workplace.folder.iterdir()) == ["mlflow.db"]


@pytest.mark.parametrize("name", ["a\nb", "x" * 300, " ", "a\x7fb"])
def test_an_experiment_that_no_store_takes_is_refused(workplace: Workplace, name: str) -> None:
    ran = workplace.run("mix=solo", "baseline=skip", "sweep=s", f"tracking.experiment={quoted(name)}", small=SMALL)
    assert ran.code == 2
    assert "tracking.experiment=" in ran.err
