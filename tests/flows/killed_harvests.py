"""Kill harvests at random moments, run them again, and count the equal digests.

A process of its own, with arguments FOLDER KILLS WORKERS START, run from the checkout
as `python -m tests.flows.killed_harvests`. Each harvest is a fork of it, so that
nothing is imported twice; what runs is the stage itself. Its workers are forks too
(START is fork), or start as users' do (spawn).
"""

import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import torch
from prefect.logging import disable_run_logger

from storage.home import Home
from tasks import harvest, stage
from tasks import plan as planning
from tasks import workers as working
from tasks.plan import Plan
from tests.flows import forks
from trilemma.config import profile

CHOICE = random.SystemRandom()
PROFILE = {
    "name": "killed",
    "toy": {
        "num_features": 64,
        "d_in": 32,
        "num_tokens": 160_000,
        "num_eval_tokens": 16_000,
        "ctx": 50,
    },
    "store": {"chunk_mib": 0.25, "dtype": "bfloat16"},
    "saes": [{"kind": "topk", "d_sae": 8, "k": 2}],
}


def main(folder: Path, kills: int, num_workers: int, start: str) -> None:
    """Print how many of the killed harvests ended in an undisturbed one's digest."""
    torch.set_num_threads(1)
    working.START = start
    quiet = _plan(folder / "quiet", 1)
    forks.wait(forks.fork(lambda: _harvest(quiet)))
    expected = _digest(quiet)
    timed = _plan(folder / "timed", num_workers)
    began = time.monotonic()
    forks.wait(forks.fork(lambda: _harvest(timed)))
    seconds = time.monotonic() - began
    results = []
    for number in range(kills):
        home = folder / f"killed-{number}"
        plan = _plan(home, num_workers)
        runner = forks.fork(lambda plan=plan: _harvest(plan))
        time.sleep(CHOICE.uniform(0, seconds))
        kept = _kill(runner)
        commits = sorted(plan.step("harvest").folder.glob("*.commits/*.json"))
        before = {path: path.stat().st_mtime_ns for path in commits}
        last = forks.wait(forks.fork(lambda plan=plan: _harvest(plan)))
        results.append(
            {
                "status": last,
                "equal": _digest(plan) == expected,
                "committed": len(before),
                "killed": kept,
            }
        )
        shutil.rmtree(home)
    print(json.dumps(results))


def _plan(home: Path, num_workers: int) -> Plan:
    run = profile.parse(PROFILE | {"compute": {"devices": num_workers}})
    return planning.make(run, Home(home, None))


def _harvest(plan: Plan) -> None:
    plan.home.path.mkdir(parents=True, exist_ok=True)
    with disable_run_logger():
        state = stage.perform(plan, plan.of("harvest"), harvest._body, force=False)
    if state.is_failed():
        print(state.message, file=sys.stderr)
        os._exit(1)


def _kill(runner: int) -> str:
    """Kill the runner, one of its workers, or all of them; return which."""
    children = _children(runner)
    victims = {"runner": [runner], "all": [runner, *children]}
    if children:
        victims["worker"] = [CHOICE.choice(children)]
    which = CHOICE.choice(sorted(victims))
    for victim in victims[which]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
    forks.wait(runner)
    return which


def _children(runner: int) -> list[int]:
    try:
        text = Path(f"/proc/{runner}/task/{runner}/children").read_text()
    except FileNotFoundError:
        return []
    return [int(word) for word in text.split()]


def _digest(plan: Plan) -> str | None:
    manifest = plan.step("harvest").manifest()
    return None if manifest is None else manifest.digest


if __name__ == "__main__":
    multiprocessing.set_start_method("fork")
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
