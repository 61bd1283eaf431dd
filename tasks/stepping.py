"""Step the SAEs of a hook over its batches: in the task itself, or in each rank."""

import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from storage import checkpoints, order
from storage.order import TrainingOrder
from tasks import environment, hook_rows, interruption
from tasks.plan import Plan, Step
from tasks.terms import Needed
from tasks.tracking import Tracker
from trilemma import family, objective
from trilemma import training as library
from trilemma.config.pretrained import Pretrained
from trilemma.non_finite import NonFiniteLossError
from trilemma.ranks import Ranks
from trilemma.start import Start
from trilemma.training_record import Checkpoint, StepRow

_CHECKPOINTS = "checkpoints"


class Desk(Protocol):
    """Who is told how training goes: a stage's work, or a rank that passes it on."""

    @property
    def plan(self) -> Plan:
        """Return the plan of the run."""

    def folder(self, step: Step) -> Path:
        """Return where a step's checkpoints lie."""

    def fail(self, step: Step, error: BaseException) -> None:
        """Note that a step failed; its siblings go on."""


class Trainee(NamedTuple):
    """An SAE in training, and who keeps its curve."""

    step: Step
    member: library.Member
    tracker: Tracker
    needed: Needed


def member(
    desk: Desk,
    step: Step,
    *,
    starts: Mapping[str, Start],
    num_steps: int,
    held_out: Mapping[str, Tensor],
    needed: Needed,
    device: str,
    ranks: Ranks,
) -> library.Member:
    """Return an SAE in training, at its last checkpoint if there is one.

    Raises:
        ValueError: a setting can have no effect, or the checkpoint is of another SAE.
    """
    _, hook, target_hook, config, _ = desk.plan.member(step.name)
    assert not isinstance(config, Pretrained)
    is_transcoder = target_hook != hook
    saved = _saved(desk, step)
    rows = None
    if saved is None:
        stored = hook_rows.of(desk.plan, "train", hook)
        rows = stored.at(objective.rows_to_begin_as(config, stored.num))
    found = library.Member(
        config,
        desk.plan.run.training,
        start=starts[hook],
        num_steps=num_steps,
        key=step.name,
        device=device,
        target_start=starts[target_hook] if is_transcoder else None,
        rows=rows,
        held_out_rows=held_out.get(hook),
        held_out_target=held_out.get(target_hook) if is_transcoder else None,
        gamma=needed.gamma,
        splice=needed.splice,
        ranks=ranks,
    )
    if saved is not None:
        found.restore(saved)
    return found


def restore(desk: Desk, step: Step, member: library.Member) -> None:
    """Bring an SAE to its last checkpoint, if there is one."""
    saved = _saved(desk, step)
    if saved is not None:
        member.restore(saved)


def steps(
    desk: Desk,
    orders: Mapping[str, TrainingOrder],
    trainees: list[Trainee],
    span: range,
    *,
    asked: Callable[[], bool],
    show: Callable[[int, str], None],
) -> float:
    """Train every SAE on each batch; return the seconds for which data was waited.

    The orders are those of the hook that they read, or of the hooks that it joins, and
    of the hooks that transcoders among them reconstruct. An SAE that is ahead waits.

    Raises:
        Interrupted: `asked` says so; all is in a checkpoint.
    """
    shared = desk.plan.run.training
    compute = desk.plan.run.compute
    device = torch.device(environment.device(compute))
    ranks = trainees[0].member.ranks
    active = list(trainees)
    hook = desk.plan.member(trainees[0].step.name).hook
    joint = hook_rows.joint(desk.plan, hook)
    reader = order.together(
        orders,
        span.start,
        span.stop,
        prefetch=compute.prefetch,
        pin=device.type == "cuda",
    )
    waited = 0.0
    with contextlib.closing(reader) as batches:
        for index in span:
            asked_at = time.monotonic()
            stored = next(batches)
            waited += time.monotonic() - asked_at
            size = len(next(iter(stored.values())))
            share = ranks.share(size)
            mine = {
                name: rows[share].to(device, non_blocking=True).float()
                for name, rows in stored.items()
            }
            x = mine[hook] if joint is None else joint.joined(mine)
            elsewhere = size - len(x)
            due = [t for t in active if t.member.step_index == index]
            members = [trainee.member for trainee in due]
            beside = {
                t.member.key: family.Read(
                    t.needed.sequences(index, device),
                    mine.get(t.member.config.target_hook or ""),
                )
                for t in due
            }
            if device.type == "cuda" and ranks.size == 1:
                outcomes = family.step_batched(members, x, beside)
            else:
                outcomes = family.step(members, x, beside, num_elsewhere=elsewhere)
            rows = []
            for trainee, row in zip(due, outcomes, strict=True):
                if isinstance(row, NonFiniteLossError):
                    checkpoint(desk, [trainee])
                    row.add_note(f"(the checkpoint of step {index} is kept)")
                    desk.fail(trainee.step, row)
                    active.remove(trainee)
                elif row is not None:
                    trainee.tracker.log(row)
                    rows.append(row)
            if rows:
                show((index + 1) * shared.batch_tokens, told(rows))
            if not active:
                break
            if asked():
                checkpoint(desk, active)
                raise interruption.Interrupted(f"asked to stop at step {index + 1}")
            if (index + 1) % shared.checkpoint_every_steps == 0:
                checkpoint(
                    desk, [t for t in active if t.member.step_index == index + 1]
                )
    return waited


def checkpoint(desk: Desk, trainees: list[Trainee]) -> None:
    """Keep the states; ranks hold the same, so the first does it for all."""
    for step, member, *_ in trainees:
        if member.ranks.rank == 0:
            state = member.state()
            checkpoints.save(
                desk.folder(step) / _CHECKPOINTS,
                checkpoints.Checkpoint(member.step_index, state.tensors, state.values),
                key=step.key,
            )


def told(rows: list[StepRow]) -> str:
    """Return how the SAEs do at a step: from the least to the largest, if several."""
    fvu = _range([row["fvu"] for row in rows], "{:.3f}")
    l0 = _range([row["l0"] for row in rows], "{:.1f}")
    dead = _range([100 * row["dead_fraction"] for row in rows], "{:.1f}")
    return f"fvu {fvu}, l0 {l0}, dead {dead} %"


def _saved(desk: Desk, step: Step) -> Checkpoint | None:
    saved = checkpoints.latest(desk.folder(step) / _CHECKPOINTS, key=step.key)
    return None if saved is None else Checkpoint(saved.tensors, saved.values)


def _range(values: list[float], form: str) -> str:
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low} to {high}"
