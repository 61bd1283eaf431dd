"""What all SAEs of a hook share before they train: rows, their order, their centre."""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from prefect.logging import get_run_logger
from torch import Tensor

from storage import mixing
from storage.mixing import Mixing
from storage.order import TrainingOrder
from storage.store import Store
from tasks import environment, hook_rows
from tasks.plan import Plan
from trilemma.config import joint
from trilemma.config.run import Member
from trilemma.geometric_median import geometric_median
from trilemma.start import Start

MEDIAN_ROWS = 1 << 13  # 150 MiB of float64 at a width of 2,304
_MIXING_BATCHES = 16
_MIXING_ROWS = 1 << 24  # their documents take a few seconds to count


class Hooks(NamedTuple):
    """The activations that SAEs of a hook read, and those that transcoders predict."""

    orders: Mapping[str, TrainingOrder]
    """The order of each, the first that of the hook itself; see `order.together`. Of a
    joint hook there is one for each of its hooks."""
    mixed: Mixing
    starts: Mapping[str, Start]
    held_out: Mapping[str, Tensor]
    """Rows to measure on while training; none where nothing is measured."""
    num_steps: int
    num_tokens: int


def prepare(plan: Plan, store: Store, hook: str, members: Iterable[Member]) -> Hooks:
    """Return the activations that SAEs of a hook read and predict, ready to be read.

    Raises:
        ValueError: the store has fewer rows than a batch.
    """
    shared = plan.run.training
    names = list(dict.fromkeys([hook, *(member.target_hook for member in members)]))
    orders = orders_of(plan, store, names)
    order = next(iter(orders.values()))
    if order.rows_per_epoch < shared.batch_tokens:
        raise ValueError(
            f"training.batch_tokens: found {shared.batch_tokens}, but the store has "
            f"only {order.rows_per_epoch:,} training rows; lower it, or harvest more"
        )
    mixed = mixing.measure(
        store, order, batches=_MIXING_BATCHES, most_rows=_MIXING_ROWS
    )
    get_run_logger().info(
        "training: a batch of %s spans %s documents, %.2f of a perfect shuffle's %s",
        hook,
        f"{mixed.documents_per_batch:,.0f}",
        mixed.ratio,
        f"{mixed.perfect:,.0f}",
    )
    return Hooks(
        orders,
        mixed,
        {name: _start(plan, name) for name in names},
        held_out(plan, names),
        num_steps=order.steps_per_epoch * shared.epochs,
        num_tokens=order.rows_per_epoch * shared.epochs,
    )


def orders_of(
    plan: Plan, store: Store, hooks: Iterable[str]
) -> dict[str, TrainingOrder]:
    """Return the order in which the rows of hooks are read, joint ones taken apart."""
    shared = plan.run.training
    return {
        hook: TrainingOrder(
            store,
            hook,
            seed=shared.seed,
            batch_tokens=shared.batch_tokens,
            open_chunks=shared.open_chunks,
        )
        for name in hooks
        for hook in joint.parts(name)
    }


def held_out(plan: Plan, hooks: Iterable[str]) -> dict[str, Tensor]:
    """Return each hook's rows to measure on while training, if anything is measured."""
    shared = plan.run.training
    if shared.eval_every_steps is None:
        return {}
    device = environment.device(plan.run.compute)
    return {
        hook: hook_rows.of(plan, "eval", hook).first(shared.eval_tokens).to(device)
        for hook in hooks
    }


def _start(plan: Plan, hook: str) -> Start:
    start = hook_rows.start(plan, hook)
    if plan.run.training.b_dec_init == "mean":
        return start
    rows = hook_rows.of(plan, "train", hook).first(MEDIAN_ROWS)
    found = geometric_median(rows)
    get_run_logger().info(
        "training: b_dec of %s starts at the geometric median of %s rows, found after "
        "%d iterations, %.3g from the mean of rows of norm %.3g",
        hook,
        f"{len(rows):,}",
        found.iterations,
        float((found.point - start.mean).norm()),
        math.sqrt(start.mean_squared_norm),
    )
    return start._replace(center=found.point)
