"""The `training` flow: this stage, and what it lacks."""

from prefect import flow
from prefect.client.schemas.objects import State

from flows.pipeline import Ending, through
from trilemma.config import Run


@flow(name="training", persist_result=False)
def training(run: Run, force: bool = False) -> State[Ending]:
    """Bring every SAE of the family to be trained, after the harvest."""
    return through(run, "training", force=force)
