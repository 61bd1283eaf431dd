"""The `reporting` flow: this stage, and what it lacks."""

from prefect import flow
from prefect.client.schemas.objects import State

from flows.pipeline import Ending, through
from trilemma.config import Run


@flow(name="reporting", persist_result=False)
def reporting(run: Run, force: bool = False) -> State[Ending]:
    """Write the web report, after evaluation and explanation."""
    return through(run, "reporting", force=force)
