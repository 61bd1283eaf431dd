"""Train an SAE of every kind: beside each other, alone, and killed at random steps.

A process of its own, with arguments FOLDER KILLS, run from the checkout as
`python -m tests.flows.trained_kinds`. Each training is a fork of it, so that nothing is
imported twice; what runs is the stage itself, with batches that are read ahead.
"""

import functools
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from prefect.logging import disable_run_logger

from storage import artifacts
from storage.home import Home
from tasks import harvest, stage, training
from tasks import plan as planning
from tasks.plan import Plan, Step
from tests.flows import forks
from tests.trilemma.kinds.samples import BATCH, CONFIGS
from trilemma.config import profile

CHOICE = random.SystemRandom()
# The family's order: the control, whose decoder is frozen, comes last.
NAMES = [*CONFIGS, "control"]
ROWS, EPOCHS, CHECKPOINT_STEPS = 32 * BATCH, 2, 3
NUM_STEPS = EPOCHS * ROWS // BATCH
PROFILE: dict[str, Any] = {
    "name": "kinds",
    "toy": {
        "num_features": 16,
        "d_in": 8,
        "density": 0.1,
        "num_tokens": ROWS,
        "num_eval_tokens": 64,
        "ctx": 16,
    },
    # Six chunks an epoch, two of them open: a resumed reader starts amid a group.
    "store": {"chunk_mib": 0.011},
    "saes": [
        config.model_dump(mode="json")
        | {"resample_every_steps": 8, "resample_until_fraction": 1.0}
        for config in CONFIGS.values()
    ],
    "control": {"k": 2},
    "training": {
        "batch_tokens": BATCH,
        "epochs": EPOCHS,
        "dead_after_tokens": 4 * BATCH,
        "b_dec_init": "geometric_median",
        "ema_decay": 0.9,
        "open_chunks": 2,
        "log_every_steps": 7,
        "eval_every_steps": 11,
        "eval_tokens": 64,
        "checkpoint_every_steps": CHECKPOINT_STEPS,
    },
    "compute": {"device": "cpu", "threads": 1, "prefetch": True},
    "sharing": {"tracker": "none"},
}
_TRIES = 5


def main(folder: Path, kills: int) -> None:
    """Print the digest of every SAE, by how it was trained and by its key."""
    torch.set_num_threads(1)
    quiet = _plan(folder / "quiet")
    quiet.home.path.mkdir(parents=True)
    _perform(quiet, "harvest")
    began = time.monotonic()
    forks.wait(forks.fork(functools.partial(_perform, quiet, "training")))
    seconds = time.monotonic() - began
    alone = _copy(quiet, folder / "alone")
    forks.wait(forks.fork(functools.partial(_train_each, alone)))
    found = {
        "keys": {
            name: quiet.step("training", member.name).key
            for name, member in zip(NAMES, quiet.run.family(), strict=True)
        },
        "together": _digests(quiet),
        "alone": _digests(alone),
        "killed": [
            _killed(quiet, folder / f"killed-{number}", seconds / NUM_STEPS)
            for number in range(kills)
        ],
    }
    print(json.dumps(found))


def _plan(home: Path) -> Plan:
    return planning.make(profile.parse(PROFILE), Home(home, None))


def _copy(quiet: Plan, home: Path) -> Plan:
    """Return the plan of a home that has the activations of another, and no SAEs."""
    shutil.copytree(quiet.home.path / "harvest", home / "harvest")
    return _plan(home)


def _perform(plan: Plan, name: str, *steps: Step) -> None:
    """Do some steps of a stage, or all of them."""
    body = {"harvest": harvest._body, "training": training._body}[name]
    with disable_run_logger():
        state = stage.perform(plan, steps or plan.of(name), body, force=False)
    if state.is_failed():
        raise RuntimeError(state.message)


def _train_each(plan: Plan) -> None:
    for step in plan.of("training"):
        _perform(plan, "training", step)


def _killed(quiet: Plan, folder: Path, step_seconds: float) -> dict[str, Any]:
    """Return the steps at which a killed training resumed, and how it then ended.

    A training that ended before its kill is tried again, and never counts.
    """
    for number in range(_TRIES):
        plan = _copy(quiet, folder / str(number))
        target = CHOICE.randrange(CHECKPOINT_STEPS, NUM_STEPS)
        runner = forks.fork(functools.partial(_perform, plan, "training"))
        while max(_reached(plan)) < target // CHECKPOINT_STEPS * CHECKPOINT_STEPS:
            if forks.has_ended(runner):
                break
            time.sleep(step_seconds / 10)
        time.sleep(CHOICE.uniform(0, CHECKPOINT_STEPS) * step_seconds)
        os.killpg(runner, signal.SIGKILL)
        if forks.wait(runner) == -signal.SIGKILL:
            steps = _reached(plan)
            resumed = forks.fork(functools.partial(_perform, plan, "training"))
            status = forks.wait(resumed)
            return {"steps": steps, "status": status, "digests": _digests(plan)}
    raise RuntimeError(f"{_TRIES} trainings had ended before they were killed")


def _reached(plan: Plan) -> list[int]:
    """Return the step of each SAE's last checkpoint; of a finished one the last."""
    found = []
    for step in plan.of("training"):
        names = [path.name for path in step.folder.glob("checkpoints/[0-9]*")]
        is_done = (step.folder / artifacts.MANIFEST).exists()
        found.append(NUM_STEPS if is_done else max(map(int, names), default=0))
    return found


def _digests(plan: Plan) -> dict[str, str]:
    manifests = {step.key: step.manifest() for step in plan.of("training")}
    return {key: found.digest for key, found in manifests.items() if found is not None}


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
