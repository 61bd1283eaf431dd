"""p annealing: a penalty that starts as L1 and becomes more and more like L0.

Karvonen et al. (2024), "Measuring progress in dictionary learning", section 3.2: p
falls in ten equal steps, and with each of them the coefficient is multiplied by the
mean of the old penalty over that of the new one, taken over the last ten batches, so
that the pressure stays what it was.
"""

import functools
from typing import Any

import torch
from torch import Tensor

from trilemma import losses
from trilemma.config.saes import ReLU
from trilemma.kinds.kind import Averages, Batch, Forward

_UPDATES = 10
_QUEUE = 10


def p(config: ReLU, step: int, num_steps: int) -> float:
    """Return the power of the penalty at a step."""
    return _after(config, _updates(config, step, num_steps))


def penalty(config: ReLU, acts: Tensor, batch: Batch) -> Tensor:
    """Return the penalty of a batch, times the factor of the averages."""
    power = p(config, batch.step, batch.num_steps)
    found = losses.lp(acts, power, batch=len(batch.x))
    factor = batch.averages.get("factor")
    return found if factor is None else found * factor.float()


def averages(config: ReLU) -> dict[str, Any]:
    """Return the averages of `Kind` and what updates them (`Any`: its arguments)."""
    start: Averages = {
        "factor": torch.ones((), dtype=torch.float64),
        "penalties": torch.zeros(2, _QUEUE, dtype=torch.float64),
    }
    return {"averages": start, "averaged": functools.partial(_averaged, config)}


def _averaged(config: ReLU, batch: Batch, forward: Forward) -> Averages:
    """Return queues with this batch's penalties, and the factor that they give."""
    updates = _updates(config, batch.step, batch.num_steps)
    acts, size = forward.code.acts.detach(), len(batch.x)
    powers = [_after(config, updates), _after(config, updates + 1)]
    latest = torch.stack([losses.lp(acts, each, batch=size) for each in powers])
    latest = batch.mean(latest)
    earlier = batch.averages["penalties"][:, 1:]
    queues = torch.cat([earlier, latest[:, None].double()], dim=1)
    factor = batch.averages["factor"]
    if _updates(config, batch.step + 1, batch.num_steps) > updates:
        now, following = queues.sum(1)
        factor = factor * torch.where(following > 0, now / following, 1.0)
        # Of the power after the one that begins nothing is known yet. Its place is held
        # by this one's values: where p falls within fewer than ten steps, as in a short
        # run, the factor comes out nearer to 1.
        queues = queues[1:].expand(2, _QUEUE).clone()
    return {"factor": factor, "penalties": queues}


def _after(config: ReLU, updates: int) -> float:
    assert config.p is not None
    if config.p_end is None:
        return config.p
    return config.p + (config.p_end - config.p) * min(updates, _UPDATES - 1) / _UPDATES


def _updates(config: ReLU, step: int, num_steps: int) -> int:
    """Return how often p has fallen before a step."""
    start = config.p_anneal_start_fraction
    if start is None:
        return 0
    share = (step / num_steps - start) / (1 - start)
    return min(max(int(share * _UPDATES), 0), _UPDATES - 1)
