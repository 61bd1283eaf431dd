"""The `explanation` flow: this stage, and what it lacks."""

from prefect import flow
from prefect.client.schemas.objects import State

from flows.pipeline import Ending, through
from trilemma.config import Run


@flow(name="explanation", persist_result=False)
def explanation(run: Run, force: bool = False) -> State[Ending]:
    """Explain a sample of every SAE's latents, after evaluation."""
    return through(run, "explanation", force=force)
