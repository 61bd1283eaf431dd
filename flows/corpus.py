"""The `corpus` flow: this stage, and what it lacks."""

from prefect import flow
from prefect.client.schemas.objects import State

from flows.pipeline import Ending, through
from trilemma.config import Run


@flow(name="corpus", persist_result=False)
def corpus(run: Run, force: bool = False) -> State[Ending]:
    """Bring the token rows to be there, after the LM whose tokenizer makes them."""
    return through(run, "corpus", force=force)
