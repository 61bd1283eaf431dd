"""The `evaluation` flow: this stage, and what it lacks."""

from prefect import flow
from prefect.client.schemas.objects import State

from flows.pipeline import Ending, through
from trilemma.config import Run


@flow(name="evaluation", persist_result=False)
def evaluation(run: Run, force: bool = False) -> State[Ending]:
    """Measure every SAE, after training."""
    return through(run, "evaluation", force=force)
