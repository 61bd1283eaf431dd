"""The `harvest` flow: this stage, and what it lacks."""

from prefect import flow
from prefect.client.schemas.objects import State

from flows.pipeline import Ending, through
from trilemma.config import Run


@flow(name="harvest", persist_result=False)
def harvest(run: Run, force: bool = False) -> State[Ending]:
    """Bring the activation stores to be there, after the LM and the corpus."""
    return through(run, "harvest", force=force)
