"""The `lm` flow: this stage, and what it lacks."""

from prefect import flow
from prefect.client.schemas.objects import State

from flows.pipeline import Ending, through
from trilemma.config import Run


@flow(name="lm", persist_result=False)
def lm(run: Run, force: bool = False) -> State[Ending]:
    """Bring the language model to be there."""
    return through(run, "lm", force=force)
