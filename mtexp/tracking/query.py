"""Reads many runs from MLflow quickly: page by page, and only the requested keys.

Lives here: :func:`search`. May touch: MLflow (reading), the garbage collector's switch.

``MlflowClient.search_runs`` spends its time making one object for every tag, parameter and metric of every run, and
most of that in a garbage collector that looks at them again and again and finds nothing. So it is held off for the
length of a page. Where MLflow reads a database itself, an SQLAlchemy loader criterion restricts it to the wanted
names; a server always sends everything.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mtexp.tracking.store import Store

if TYPE_CHECKING:
    from mlflow.entities import Run

PAGE = 1000


def search(store: Store, query: str, names: Collection[str] | None = None) -> Iterator[Run]:
    """Yield every run of the experiment that matches, newest first.

    Args:
        store: The open store.
        query: MLflow filter string.
        names: Requested tags, parameters and metrics by their MLflow names; None = all. Runs may contain more.

    Raises:
        mlflow.exceptions.MlflowException: The query is not valid.
    """
    token: str | None = None
    while True:
        with without_gc(), _load_only(names, query):
            page = store.client.search_runs([store.experiment_id], query, max_results=PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


@contextmanager
def without_gc() -> Iterator[None]:
    """Disable the garbage collector, then collect the new objects once.

    Writing and reading through SQLAlchemy makes many objects at a time and little garbage: without the collector a
    batch of 1000 points takes two thirds of the time, a page of runs a third.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
        gc.collect(0)


@contextmanager
def _load_only(names: Collection[str] | None, query: str) -> Iterator[None]:
    """Make MLflow's store load only ``names`` and the keys in ``query``."""
    if names is None:
        yield
        return
    from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlParam, SqlTag
    from mlflow.utils.search_utils import SearchUtils
    from sqlalchemy import event
    from sqlalchemy.orm import Session, with_loader_criteria

    wanted = {*names, *(str(part["key"]) for part in SearchUtils.parse_search_filter(query))}
    criteria = [with_loader_criteria(model, model.key.in_(wanted)) for model in (SqlTag, SqlParam, SqlLatestMetric)]
    thread = threading.get_ident()

    def narrow(state: Any) -> None:
        if state.is_select and threading.get_ident() == thread:
            state.statement = state.statement.options(*criteria)

    event.listen(Session, "do_orm_execute", narrow)
    try:
        yield
    finally:
        event.remove(Session, "do_orm_execute", narrow)
