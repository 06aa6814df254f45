"""``tracking=none``: the record on disk, and MLflow neither asked nor needed; what is there can be sent later."""

from __future__ import annotations

import pytest

from mtexp.tracking import upload
from mtexp.tracking.store import NoStoreError
from tests.run.run_helpers import Workplace


def test_records_stay_on_disk_until_they_are_sent_by_hand(workplace: Workplace) -> None:
    ran = workplace.run("mix=bert_base*2", "tracking=none", "tracking.uri=http://127.0.0.1:1", "sweep=s")
    assert ran.code == 0, ran.err
    assert "report --records outputs/s" in ran.out
    assert not [text for text in workplace.phases if text.startswith("tracking")]
    assert len(workplace.records("outputs/s")) == 2  # the baseline's too
    assert (workplace.folder / "outputs/s/mtexp.log").is_file()
    with pytest.raises(NoStoreError):
        workplace.mlflow_runs()
    again = workplace.run(
        "mix=bert_base*2", "tracking=none", "tracking.uri=http://127.0.0.1:1", "sweep=s", "resume=true"
    )
    assert "done before" in again.out + "".join(workplace.phases)
    assert upload.main(["outputs/s"]) == 0
    assert len(workplace.mlflow_runs("tags.`mtexp.kind` = 'mix'")) == 1
