"""What every flow does: bring the stages up to one of them to be done, in order."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed

from storage import artifacts, home
from storage.places import PlaceError
from tasks import environment, log_lines
from tasks import plan as planning
from tasks.corpus import corpus
from tasks.evaluation import evaluation
from tasks.explanation import explanation
from tasks.harvest import harvest
from tasks.lm import lm
from tasks.plan import Plan, Step
from tasks.reporting import reporting
from tasks.sharing import sharing
from tasks.stage import Outcome, failure
from tasks.stages import STAGES
from tasks.training import training
from trilemma.config import Run

# A stage of one task does all its steps at once; the others take a task for each.
_WHOLE = {
    "lm": lm,
    "corpus": corpus,
    "harvest": harvest,
    "training": training,
    "reporting": reporting,
    "sharing": sharing,
}
_EACH = {"evaluation": evaluation, "explanation": explanation}


class Ending(NamedTuple):
    """What became of every step of a run, by title."""

    cached: tuple[str, ...]
    made: tuple[str, ...]
    failed: dict[str, str]
    """Title to the reason, one line each."""


def through(run: Run, last: str, *, force: bool) -> State[Ending]:
    """Run what is missing up to the stage `last`, and return the flow's state.

    A step whose parents failed is left out; its siblings go on. `force` makes the
    last stage again though it is done.
    """
    plan = planning.make(run, home.find())
    home.prepare(plan.home)
    with environment.prepared(run.compute), log_lines.without_repeats():
        outcomes = list(_outcomes(plan, last, force=force))
    ending = Ending(
        tuple(title for outcome in outcomes for title in outcome.cached),
        tuple(title for outcome in outcomes for title in outcome.made),
        {title: why for outcome in outcomes for title, why in outcome.failed.items()},
    )
    get_run_logger().info(
        "%s: %d steps cached, %d made, %d failed",
        run.name,
        len(ending.cached),
        len(ending.made),
        len(ending.failed),
    )
    if ending.failed:
        title, reason = next(iter(ending.failed.items()))
        return Failed(message=failure(title, reason), data=ending)
    name = None if ending.made else "Cached"
    return Completed(name=name, message=f"{len(ending.made)} made", data=ending)


def _outcomes(plan: Plan, last: str, *, force: bool) -> Iterator[Outcome]:
    for stage in STAGES[: STAGES.index(last) + 1]:
        for state in _states(plan, stage, force=force and stage == last):
            outcome = state.result(raise_on_failure=False)
            if isinstance(outcome, BaseException):
                raise outcome
            assert isinstance(outcome, Outcome)
            yield outcome


def _states(plan: Plan, stage: str, *, force: bool) -> Iterator[State[Any]]:
    """Yield the final state of each task of a stage whose parents are there.

    Its result is an Outcome; Prefect types it as the state that the task returns.
    """
    steps = plan.of(stage)
    if stage in _WHOLE:
        if not all(_is_ready(step) for step in steps):
            for step in steps:
                _leave_out(step)
        elif steps:
            yield _WHOLE[stage](plan, force=force, return_state=True)
        return
    for step in steps:
        if _is_ready(step):
            yield _EACH[stage](plan, step.name, force=force, return_state=True)
        else:
            _leave_out(step)


def _is_ready(step: Step) -> bool:
    try:
        return all(parent.manifest() for parent in step.parents.values())
    except PlaceError:
        return True  # the step itself will fail, and say why
    except (artifacts.ArtifactError, OSError):
        return False  # that parent failed already, and said why


def _leave_out(step: Step) -> None:
    get_run_logger().warning("%s left out: its parents failed", step.title)
