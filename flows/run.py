"""The `run` flow: a profile's stages, from the language model to the shared report."""

from prefect import flow
from prefect.client.schemas.objects import State

from flows.pipeline import Ending, through
from trilemma.config import Run


@flow(name="run", persist_result=False)
def run(run: Run) -> State[Ending]:
    """Bring every stage of a run to be done; cached ones are skipped."""
    return through(run, "sharing", force=False)
