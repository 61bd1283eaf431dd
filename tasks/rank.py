"""One of the processes that train the SAEs of a hook together, started by torchrun."""

import functools
import json
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from tasks import environment, hooks, stage, stepping, terms
from tasks.harvest import open_store
from tasks.interruption import Interrupted
from tasks.plan import Plan, Step
from tasks.stepping import Trainee
from trilemma import allocation
from trilemma.ranks import Ranks
from trilemma.start import Start
from trilemma.training_record import StepRow

_STANDARD_INPUT, _STANDARD_OUTPUT, _STANDARD_ERROR = range(3)
# So that a line stays below the size that a pipe takes from several writers unmixed.
_LONGEST_TOLD = 900


class Job(NamedTuple):
    """What each of several ranks needs to train SAEs of a hook together."""

    plan: Plan
    starts: Mapping[str, Start]
    """What is known of each hook's activations; the first is what the SAEs read."""
    span: range
    """Steps to take; SAEs that are ahead wait."""
    folders: Mapping[str, Path]
    """Of the SAEs, by key; their checkpoints are where training begins and ends."""


def main(path: Path) -> None:
    """Train as a job says, and tell the process that gave it of how it goes."""
    told = os.dup(_STANDARD_OUTPUT)
    os.dup2(_STANDARD_ERROR, _STANDARD_OUTPUT)  # what a library prints is for the log
    stop = threading.Event()
    threading.Thread(target=_listen, args=(stop,), daemon=True).start()
    job: Job = pickle.loads(path.read_bytes())
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    backend = "gloo"
    if environment.device(job.plan.run.compute) == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend)
    ranks = Ranks(dist.get_rank(), dist.get_world_size())
    desk = _Desk(job, told if ranks.rank == 0 else None)

    def asked() -> bool:
        # One rank has heard; all have to stop at the same step.
        return bool(ranks.any(torch.tensor(stop.is_set())))

    try:
        with allocation.kept():
            _train(job, desk, ranks, asked)
    except Interrupted as error:
        desk.tell("stopped", str(error))
    except stage.EXPECTED as error:
        _write(told, "failed", stage.one_line(error)[:_LONGEST_TOLD])
        sys.exit(1)
    dist.destroy_process_group()


class _Desk:
    """Takes what there is to tell of training; ranks but the first tell nothing."""

    def __init__(self, job: Job, told: int | None) -> None:
        self.plan: Plan = job.plan
        self._folders = job.folders
        self._told = told

    def folder(self, step: Step) -> Path:
        """Return where a step's checkpoints lie."""
        return self._folders[step.key]

    def fail(self, step: Step, error: BaseException) -> None:
        """Tell that a step failed; its siblings go on."""
        self.tell("lost", step.key, stage.one_line(error))

    def tracker(self, step: Step) -> "_Tracker":
        """Return what takes the rows of a step's curve."""
        return _Tracker(self, step.key)

    def tell(self, what: str, *values: Any) -> None:
        """Tell JSON values (hence `Any`)."""
        if self._told is not None:
            _write(self._told, what, *values)


class _Tracker:
    def __init__(self, desk: _Desk, key: str) -> None:
        self._desk = desk
        self._key = key

    def log(self, row: StepRow) -> None:
        """Tell of a row."""
        self._desk.tell("row", self._key, row)


def _train(job: Job, desk: _Desk, ranks: Ranks, asked: Callable[[], bool]) -> None:
    """Do this rank's part; the last checkpoints are what comes of it."""
    plan, device = job.plan, environment.device(job.plan.run.compute)
    held_out = hooks.held_out(plan, job.starts)
    store = open_store(plan, "train")
    steps = [step for step in plan.of("training") if step.key in job.folders]
    model = terms.load_lm(plan, steps)
    trainees = []
    for step in steps:
        needed = terms.needed(plan, step, store, starts=job.starts, model=model)
        member = stepping.member(
            desk,
            step,
            starts=job.starts,
            num_steps=job.span.stop,
            held_out=held_out,
            needed=needed,
            device=device,
            ranks=ranks,
        )
        trainees.append(Trainee(step, member, desk.tracker(step), needed))
    waited = stepping.steps(
        desk,
        hooks.orders_of(plan, store, job.starts),
        trainees,
        job.span,
        asked=asked,
        show=functools.partial(desk.tell, "shown"),
    )
    ended = [t for t in trainees if t.member.step_index == job.span.stop]
    stepping.checkpoint(desk, ended)
    desk.tell("waited", waited)


def _listen(stop: threading.Event) -> None:
    """Note a wish to stop; die with the process that holds the other end."""
    while os.read(_STANDARD_INPUT, 1):
        stop.set()
    os.kill(os.getpid(), signal.SIGKILL)


def _write(pipe: int, *values: Any) -> None:
    os.write(pipe, json.dumps(values).encode() + b"\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
