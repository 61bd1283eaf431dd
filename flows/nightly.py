"""The `nightly` flow: several profiles, one after another, whatever becomes of each."""

from typing import NamedTuple

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed

from flows.pipeline import Ending
from flows.run import run
from storage import home
from tasks import plan
from tasks.interruption import Interrupted
from tasks.stage import failure
from trilemma import config


class Night(NamedTuple):
    """What became of every profile of a night."""

    cached: tuple[str, ...]
    """Profiles of which nothing had to be made."""
    made: tuple[str, ...]
    failed: dict[str, str]
    """Profile to the reason, one line each."""


@flow(name="nightly", persist_result=False)
def nightly(profiles: list[str], words: list[str]) -> State[Night]:
    """Run profiles in order; a failure of one does not stop the next.

    The files are read when the flow starts, so what is edited by day runs at night.
    """
    night = Night((), (), {})
    for profile in profiles:
        night = _with(night, profile, _ending(profile, tuple(words)))
    if night.failed:
        lines = [f"{profile}: {reason}" for profile, reason in night.failed.items()]
        return Failed(message="\n".join(lines), data=night)
    name = None if night.made else "Cached"
    return Completed(name=name, message=f"{len(night.made)} made", data=night)


def _ending(profile: str, words: tuple[str, ...]) -> Ending | BaseException:
    """Run one profile and return how it ended, or what stopped it."""
    try:
        value = config.load(profile, words)
        where = home.find()
        home.prepare(where)
        plan.make(value, where)
    except (ValueError, OSError) as error:
        return error
    state = run(value, return_state=True)
    ending = state.result(raise_on_failure=False)
    if isinstance(ending, Interrupted):
        raise ending
    assert isinstance(ending, Ending | BaseException)
    return ending


def _with(night: Night, profile: str, ending: Ending | BaseException) -> Night:
    log = get_run_logger()
    reason = _reason(profile, ending)
    if reason is not None:
        log.error("%s: %s", profile, reason)
        return night._replace(failed=night.failed | {profile: reason})
    assert isinstance(ending, Ending)
    log.info("%s: %d steps made", profile, len(ending.made))
    if ending.made:
        return night._replace(made=(*night.made, profile))
    return night._replace(cached=(*night.cached, profile))


def _reason(profile: str, ending: Ending | BaseException) -> str | None:
    """Return in one line why a profile failed; None if it did not."""
    if isinstance(ending, BaseException):
        lines = str(ending).removeprefix(f"{profile}: ").splitlines()
        return (
            "; ".join(" ".join(line.split()) for line in lines) or type(ending).__name__
        )
    if not ending.failed:
        return None
    title, reason = next(iter(ending.failed.items()))
    others = len(ending.failed) - 1
    return failure(title, reason) + (f"; and {others} more failed" if others else "")
