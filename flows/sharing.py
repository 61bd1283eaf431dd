"""The `sharing` flow: this stage, and what it lacks."""

from prefect import flow
from prefect.client.schemas.objects import State

from flows.pipeline import Ending, through
from trilemma.config import Run


@flow(name="sharing", persist_result=False)
def sharing(run: Run, force: bool = False) -> State[Ending]:
    """Log the results, after the report."""
    return through(run, "sharing", force=force)
