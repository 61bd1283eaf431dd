"""One stage: what it records of a failure, whatever the disk allows."""

import errno
import json
import shutil

import pytest
import torch
from prefect.logging import disable_run_logger
from safetensors import SafetensorError

from storage import artifacts
from tasks import plan as planning
from tasks import stage
from trilemma import config

FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture(autouse=True)
def _outside_of_a_flow():
    with disable_run_logger():
        yield


@pytest.fixture
def plan(tmp_path):
    """Return the plan of a toy run in an empty home."""
    return planning.make(config.load("configs/toy.yaml"), tmp_path / "home")


@pytest.fixture
def outcome(plan):
    """Return a function: how the harvest ends when its body does that."""

    def perform(body, *, force=False):
        state = stage.perform(plan, plan.of("harvest"), body, force=force)
        return state.data

    return perform


def raising(error):
    def body(work):
        raise error

    return body


def committing(work):
    (step,) = work.pending
    (work.folder(step) / "a.txt").write_text("a")
    work.commit(step)


@pytest.mark.parametrize(
    "error",
    [
        FULL,
        ValueError("lower it"),
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate"),
        SafetensorError("header too large"),
    ],
)
def test_expected_error_is_one_line_and_a_record(plan, outcome, error):
    (reason,) = outcome(raising(error)).failed.values()
    (step,) = plan.of("harvest")
    record = json.loads((step.folder / artifacts.FAILED).read_text())
    assert record == {"error": type(error).__name__, "reason": reason}
    assert len(reason.splitlines()) == 1
    assert step.state() == "failed"


def test_bug_is_recorded_and_keeps_its_traceback(plan, outcome):
    with pytest.raises(KeyError, match="nowhere"):
        outcome(raising(KeyError("nowhere")))
    (step,) = plan.of("harvest")
    record = json.loads((step.folder / artifacts.FAILED).read_text())
    assert record == {"error": "KeyError", "reason": "'nowhere'"}


def test_disk_that_holds_no_record_either_still_ends_in_one_line(plan, outcome):
    (step,) = plan.of("harvest")

    def body(work):
        shutil.rmtree(step.folder)
        step.folder.write_text("in the way")
        raise FULL

    assert outcome(body).failed == {"harvest": "[Errno 28] No space left on device"}


def test_bug_on_a_disk_that_holds_no_record_is_still_the_bug(plan, outcome):
    (step,) = plan.of("harvest")

    def body(work):
        shutil.rmtree(step.folder)
        step.folder.write_text("in the way")
        raise KeyError("nowhere")

    with pytest.raises(KeyError, match="nowhere"):
        outcome(body)


def test_lock_that_cannot_be_made_ends_in_one_line(plan, outcome):
    plan.home.mkdir()
    (plan.home / "harvest").write_text("in the way")
    (reason,) = outcome(committing).failed.values()
    assert len(reason.splitlines()) == 1


@pytest.mark.parametrize("force", [False, True])
def test_torn_manifest_ends_in_one_line_that_says_what_to_do(plan, outcome, force):
    assert outcome(committing).made == ("harvest",)
    (step,) = plan.of("harvest")
    (step.folder / artifacts.MANIFEST).write_text('{"stage": "har')
    (reason,) = outcome(committing, force=force).failed.values()
    assert f"delete {step.folder} and run the stage again" in reason


def test_stage_is_made_then_cached_then_made_again(outcome):
    assert outcome(committing) == ((), ("harvest",), {})
    assert outcome(committing) == (("harvest",), (), {})
    assert outcome(committing, force=True) == ((), ("harvest",), {})
