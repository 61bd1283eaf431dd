"""Sparsity coefficients at which contestants come out at one L0, as once measured."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks.trainers.serving import Contest

FILE = Path(__file__).with_suffix(".json")
TOLERANCE = 0.05
_MOST_RUNS = 8
_LEAST_FACTOR, _MOST_FACTOR = 1.1, 8.0
_LEAST_POWER = 0.01


class Tuned(NamedTuple):
    """What a search came to."""

    coefficient: float
    l0: float
    """The L0 that it gave."""


def key(contest: Contest) -> str:
    """Return what the coefficients of a contest are kept under."""
    return (
        f"{contest.kind} {contest.d_in}x{contest.d_sae}, l0 {contest.l0}, "
        f"{contest.steps} steps of {contest.batch}"
    )


def known(contest: Contest) -> dict[str, float]:
    """Return the coefficients that were measured for a contest, by contestant."""
    found = _read().get(key(contest), {})
    return {name: tuned["coefficient"] for name, tuned in found.items()}


def load(contest: Contest, name: str) -> float:
    """Return the coefficient of a contestant.

    Raises:
        ValueError: there is none for this contest.

    """
    found = known(contest)
    if name not in found:
        raise ValueError(
            f"{FILE.name}: found no coefficient of {name} for {key(contest)!r}; "
            f"measure it with --tune"
        )
    return found[name]


def save(contest: Contest, name: str, tuned: Tuned) -> None:
    """Add a coefficient to the file, or replace it."""
    found = _read()
    found.setdefault(key(contest), {})[name] = tuned._asdict()
    FILE.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")


def search(measure: Callable[[float], float], *, target: float, start: float) -> Tuned:
    """Return the coefficient whose L0 is nearest to the target, of a few tried.

    The first try is `start`. L0 falls as the coefficient rises, about by a power law:
    each try is where the line through the two nearest tries, in logarithms, meets the
    target, kept inside what encloses it.
    """
    tries = [Tuned(start, measure(start))]
    while len(tries) < _MOST_RUNS and not _is_near(tries[-1], target):
        coefficient = _next(tries, target)
        tries.append(Tuned(coefficient, measure(coefficient)))
    return min(tries, key=lambda tuned: abs(tuned.l0 - target))


def _next(tries: list[Tuned], target: float) -> float:
    dense = [tuned for tuned in tries if tuned.l0 > target]
    sparse = [tuned for tuned in tries if tuned.l0 <= target]
    if not (dense and sparse):
        return _beyond(tries, target)
    low = max(dense, key=lambda tuned: tuned.coefficient)
    high = min(sparse, key=lambda tuned: tuned.coefficient)
    above, below = _excess(low, target), -_excess(high, target)
    # Never nearer to an end than a tenth, where the law does not hold.
    share = min(max(above / (above + below), 0.1), 0.9)
    return low.coefficient * (high.coefficient / low.coefficient) ** share


def _beyond(tries: list[Tuned], target: float) -> float:
    """Return where the line through the last two tries meets a target beyond both.

    After a first try, L0 is taken to fall as the inverse square.
    """
    last, excess, power = tries[-1], _excess(tries[-1], target), 2.0
    if len(tries) > 1:
        before = tries[-2]
        fallen = _excess(before, target) - excess
        power = fallen / math.log(last.coefficient / before.coefficient)
    step = abs(excess) / max(power, _LEAST_POWER)
    step = min(max(step, math.log(_LEAST_FACTOR)), math.log(_MOST_FACTOR))
    return last.coefficient * math.exp(math.copysign(step, excess))


def _is_near(tuned: Tuned, target: float) -> bool:
    return abs(tuned.l0 / target - 1) <= TOLERANCE


def _excess(tuned: Tuned, target: float) -> float:
    """Return the logarithm of L0 over the target; far below counts as a tenth of it."""
    return math.log(max(tuned.l0 / target, 0.1))


def _read() -> dict[str, dict[str, dict[str, float]]]:
    found: dict[str, dict[str, dict[str, float]]] = {}
    if FILE.exists():
        found = json.loads(FILE.read_text())
    return found
