"""One stage: what it records of a failure, whatever the disk allows."""

import errno
import json
import logging
import resource
import shutil
import sys
import uuid

import pytest
import torch
from prefect.logging import disable_run_logger
from safetensors import SafetensorError
from safetensors.torch import save_file

from storage import artifacts
from storage.home import Home
from storage.places import PlaceError, open_place
from tasks import plan as planning
from tasks import stage
from tasks.interruption import Interrupted
from trilemma import config

FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture(autouse=True)
def _outside_of_a_flow():
    with disable_run_logger():
        yield


@pytest.fixture
def plan(tmp_path):
    """Return the plan of a toy run in an empty home."""
    return planning.make(config.load("configs/toy.yaml"), Home(tmp_path / "home"))


@pytest.fixture
def machine(tmp_path):
    """Return a function: the plan of the same run on a machine beside a bucket."""
    url = f"memory://{uuid.uuid4()}/home"

    def plan(name):
        home = Home(tmp_path / name, open_place(url))
        return planning.make(config.load("configs/toy.yaml"), home)

    return plan


@pytest.fixture
def outcome(plan):
    """Return a function: how the harvest ends when its body does that."""
    return lambda body, *, force=False: ended(plan, body, force=force)


def ended(plan, body, stage_name="harvest", *, force=False):
    return stage.perform(plan, plan.of(stage_name), body, force=force).data


def raising(error):
    def body(work):
        raise error

    return body


def committing(work):
    for step in work.pending:
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
    plan.home.path.mkdir()
    (plan.home.path / "harvest").write_text("in the way")
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


@pytest.mark.skipif(sys.platform != "linux", reason="malloc is not glibc's")
def test_memory_that_a_stage_frees_is_used_again(outcome):
    faults = []

    def body(work):
        # The first ones fill what was never asked for.
        for _ in range(32):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            torch.ones(1 << 24)
            faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
        committing(work)

    outcome(body)
    assert max(faults[-4:]) < (1 << 26) // resource.getpagesize() / 10


def test_tensors_can_be_read_by_whoever_can_read_the_manifest(plan, outcome):
    def body(work):
        for step in work.pending:
            save_file({"a": torch.ones(1)}, work.folder(step) / "a.safetensors")
        committing(work)

    outcome(body)
    (step,) = plan.of("harvest")
    names = ("a.safetensors", artifacts.MANIFEST)
    assert len({(step.folder / name).stat().st_mode for name in names}) == 1


def test_reason_that_begins_with_its_stage_is_told_once(plan, outcome):
    error = ValueError("harvest.hooks: found []; name some")
    state = stage.perform(plan, plan.of("harvest"), raising(error), force=False)
    assert state.message == str(error)
    assert stage.failure("lm", "lm: lost") == "lm: lost"
    assert stage.failure("lm", "lmx: lost") == "lm: lmx: lost"
    assert stage.failure("training a", "training.k: 0") == "training a: training.k: 0"


def test_bucket_holds_what_was_made_and_another_machine_finds_it(machine):
    assert ended(machine("one"), committing).made == ("harvest",)
    there = machine("two")
    assert ended(there, committing).cached == ("harvest",)
    (step,) = there.of("harvest")
    assert step.location.place.get("a.txt") == b"a"
    assert step.location.place.get(artifacts.RUN)
    assert not step.folder.exists()


def test_parents_are_brought_here_before_the_body_runs(machine):
    ended(machine("one"), committing)
    there = machine("two")
    (step,) = there.of("harvest")
    read = []

    def body(work):
        read.append((step.folder / "a.txt").read_text())
        committing(work)

    assert len(ended(there, body, "training").made) == len(there.of("training"))
    assert read == ["a"]


def test_store_is_written_into_the_bucket_and_never_here(machine):
    plan = machine("one")
    (step,) = plan.of("harvest")

    def body(work):
        assert work.place(step).url == step.location.place.url
        work.place(step).put("train.zarr/c/0", b"chunk")
        work.commit(step, {"train.zarr/c/0": artifacts.File(bytes=5, sha256="0" * 64)})

    assert ended(plan, body).made == ("harvest",)
    assert not list(step.folder.glob("*.zarr"))
    assert list(step.manifest().files) == ["train.zarr/c/0"]


def test_store_is_written_into_the_folder_where_there_is_no_bucket(plan, outcome):
    (step,) = plan.of("harvest")
    seen = []

    def body(work):
        seen.append((work.place(step).path("x"), work.folder(step) / "x"))
        committing(work)

    outcome(body)
    outcome(body, force=True)
    assert [place == folder for place, folder in seen] == [True, True]


def test_forced_artifact_on_a_bucket_is_refused_in_one_line(machine):
    plan = machine("one")
    ended(plan, committing)
    (reason,) = ended(plan, committing, force=True).failed.values()
    (step,) = plan.of("harvest")
    assert reason == (
        f"{step.location.place.url}: is done; on a bucket artifacts are not replaced, "
        "delete that prefix and run again"
    )


def test_stale_artifact_on_a_bucket_is_refused_in_one_line(machine):
    plan = machine("one")
    ended(plan, committing)
    ended(plan, committing, "training")
    place = plan.step("harvest").location.place
    place.delete(*(entry.name for entry in place.list("")))

    def otherwise(work):
        (step,) = work.pending
        (work.folder(step) / "a.txt").write_text("b")
        work.commit(step)

    again = machine("one")
    assert ended(again, otherwise).made == ("harvest",)
    failed = ended(again, committing, "training").failed
    assert len(failed) == len(again.of("training"))
    for reason in failed.values():
        assert "is stale, its parents have changed; on a bucket" in reason


def test_prefix_that_was_deleted_is_made_again(machine):
    ended(machine("one"), committing)
    place = machine("one").step("harvest").location.place
    place.delete(*(entry.name for entry in place.list("")))
    assert ended(machine("one"), committing).made == ("harvest",)
    assert place.get("a.txt") == b"a"


def test_unfinished_work_in_a_bucket_is_kept_for_the_same_parents_alone(machine):
    def interrupted(work):
        for step in work.pending:
            work.place(step).put("train.zarr/c/0", b"chunk")
        raise Interrupted

    def chunks(plan):
        place = plan.of("training")[0].location.place
        return [entry.name for entry in place.list("train.zarr")]

    ended(machine("one"), committing)
    with pytest.raises(Interrupted):
        ended(machine("one"), interrupted, "training")
    other = machine("two")
    ended(other, raising(ValueError("stop")), "training")
    assert chunks(other) == ["train.zarr/c/0"]
    place = other.step("harvest").location.place
    manifest = artifacts.read_manifest(place)
    changed = manifest.model_copy(update={"digest": "0" * 64})
    place.put(artifacts.MANIFEST, changed.text())
    third = machine("three")
    failed = ended(third, raising(ValueError("stop")), "training").failed
    step = third.of("training")[0]
    assert set(failed.values()) == {
        f"{step.location.place.url}: was begun with another harvest, digest "
        f"{manifest.digest[:12]}, now {'0' * 12}; delete that prefix and run again"
    }
    assert chunks(other) == ["train.zarr/c/0"]


def test_work_that_another_run_has_committed_from_other_parents_is_kept(machine):
    ended(machine("one"), committing)
    plan = machine("two")
    ended(plan, raising(ValueError("stop")), "training")
    step = plan.of("training")[0]

    place = step.location.place
    place.put(artifacts.BEGUN, b'{"parents": {}}')
    work = stage.Work(plan, [step], set())
    place.put(artifacts.MANIFEST, b"{}")
    with pytest.raises(artifacts.ArtifactError) as caught:
        work.begin(step)
    assert str(caught.value) == (
        f"{place.url}: another run has committed this artifact; run again"
    )
    assert place.get(artifacts.BEGUN) == b'{"parents": {}}'


def test_unfinished_work_from_other_parents_goes_and_that_is_told(
    plan, outcome, caplog, monkeypatch
):
    outcome(committing)
    ended(plan, raising(ValueError("stop")), "training")
    (harvest,) = plan.of("harvest")
    old = harvest.manifest()
    changed = old.model_copy(update={"digest": "0" * 64})
    (harvest.folder / artifacts.MANIFEST).write_bytes(changed.text())
    step = plan.of("training")[0]
    (step.folder / "half.bin").write_bytes(b"half")
    monkeypatch.setattr(stage, "get_run_logger", lambda: logging.getLogger("run"))
    stage.Work(plan, [step], set()).begin(step)
    assert not (step.folder / "half.bin").exists()
    assert [record.getMessage() for record in caplog.records] == [
        f"{step.title}: was begun with another harvest, digest {old.digest[:12]}, now "
        f"{'0' * 12}; unfinished work is removed"
    ]


def test_what_a_dead_writer_left_goes_when_the_stage_begins(plan, outcome):
    (step,) = plan.of("harvest")
    outcome(raising(ValueError("stop")))
    left = step.folder / "deep" / ".table.parquet.0a1b2c3d.tmp"
    left.parent.mkdir()
    left.write_bytes(b"half")
    (step.folder / "whole.bin").write_bytes(b"whole")
    outcome(raising(ValueError("stop")))
    assert not left.exists()
    assert (step.folder / "whole.bin").exists()


def test_other_bytes_than_those_in_the_bucket_are_refused(machine):
    plan = machine("one")

    def overtaken(work):
        ended(machine("two"), committing)
        (step,) = work.pending
        (work.folder(step) / "a.txt").write_text("b")
        work.commit(step)

    (reason,) = ended(plan, overtaken).failed.values()
    assert "another run has committed digest" in reason


def test_same_bytes_as_those_in_the_bucket_are_made_too(machine):
    def overtaken(work):
        ended(machine("two"), committing)
        committing(work)

    assert ended(machine("one"), overtaken).made == ("harvest",)


class Closed:
    """A bucket that lets nobody in."""

    url = "s3://closed"

    def child(self, name):
        return self

    def __getattr__(self, name):
        raise PlaceError("s3://closed: permission denied to read; check")


def test_bucket_that_lets_nobody_in_ends_in_one_line(tmp_path):
    home = Home(tmp_path, Closed())
    plan = planning.make(config.load("configs/toy.yaml"), home)
    assert ended(plan, committing).failed == {
        "harvest": "s3://closed: permission denied to read; check"
    }
