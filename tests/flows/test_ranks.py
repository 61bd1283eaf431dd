"""Several ranks that train an SAE together: as one process does, and killed with it."""

import contextlib
import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from storage import home as homes
from storage.home import Home
from tasks import harvest, torchrun
from tasks import plan as planning
from tasks.rank import Job
from tests.trilemma.kinds.samples import measured
from trilemma import config
from trilemma.start import Start

pytestmark = pytest.mark.slow
DEADLINE_SECONDS = 120
WORDS = (
    "training.epochs=20",
    "training.checkpoint_every_steps=20",
    "compute.threads=1",
)
TOGETHER = (*WORDS, "compute.ranks_per_sae=2")


@pytest.fixture(scope="module")
def harvested(tmp_path_factory, profile, run_flows):
    """Return a home with a harvest and nothing after it."""
    home = tmp_path_factory.mktemp("harvested")
    ended = run_flows(home, "harvest", profile, *WORDS)
    assert ended.status == 0, ended.err
    return home


@pytest.fixture
def home(tmp_path, harvested):
    return Path(shutil.copytree(harvested, tmp_path / "home"))


@pytest.fixture(scope="module")
def quiet_home(tmp_path_factory, harvested, profile, run_flows):
    """Return the home of a training by two ranks that nobody disturbed."""
    home = tmp_path_factory.mktemp("quiet") / "home"
    shutil.copytree(harvested, home)
    ended = run_flows(home, "training", profile, *TOGETHER)
    assert ended.status == 0, ended.err
    return home


@pytest.fixture
def at_work(home, profile, start_flows):
    """Return a command whose ranks train, past some of their checkpoints."""
    process = start_flows(home, "training", profile, *TOGETHER)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while len(ranks(home)) < 2 or not list(home.glob("training/*/checkpoints/*[1-9]*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def ranks(home):
    """Return the processes of a home's ranks; torchrun, which names them, is none."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            words = (path / "cmdline").read_bytes().split(b"\0")
            environ = (path / "environ").read_bytes().split(b"\0")
            is_rank = b"tasks.rank" in words and b"torch.distributed.run" not in words
            if is_rank and f"TRILEMMA_HOME={home}".encode() in environ:
                found.append(int(path.name))
    return found


def assert_all_end(home):
    deadline = time.monotonic() + DEADLINE_SECONDS
    while ranks(home):
        assert time.monotonic() < deadline, "ranks outlived their task"
        time.sleep(0.05)


def curves(home):
    """Return each SAE's training curve, by key."""
    paths = home.glob("training/*/curve.json")
    return {path.parent.name: json.loads(path.read_text()) for path in paths}


def test_ranks_leave_the_curves_of_one_process(home, quiet_home, profile, run_flows):
    ended = run_flows(home, "training", profile, *WORDS)
    assert ended.status == 0, ended.err
    alone, together = curves(home), curves(quiet_home)
    assert alone.keys() == together.keys()
    for key, rows in alone.items():
        early = len(rows) // 5  # rounding grows, the longer a training goes on
        for row, wanted in zip(together[key][:early], rows[:early], strict=True):
            assert measured(row) == pytest.approx(measured(wanted), rel=1e-5)


def test_how_many_ranks_there_were_is_recorded(quiet_home):
    paths = list(quiet_home.glob("training/*/RUN.json"))
    assert [json.loads(path.read_text())["ranks"] for path in paths] == [2] * len(paths)
    (harvested,) = quiet_home.glob("harvest/*/RUN.json")
    assert json.loads(harvested.read_text())["ranks"] == 1


def test_ranks_die_with_a_killed_task_and_resume_to_the_same_bytes(
    at_work, home, quiet_home, profile, run_flows, digests
):
    os.killpg(at_work.pid, signal.SIGKILL)  # ranks have a session of their own
    at_work.communicate()
    assert_all_end(home)
    assert not list(home.glob("training/*/MANIFEST.json"))
    ended = run_flows(home, "training", profile, *TOGETHER)
    assert ended.status == 0, ended.err
    assert "resumes at step" in ended.err + ended.out
    assert digests(home) == digests(quiet_home)


def test_ranks_stop_at_a_checkpoint_when_their_task_is_asked_to(
    at_work, home, quiet_home, profile, run_flows, digests
):
    at_work.terminate()
    _, err = at_work.communicate()
    assert at_work.returncode == 1
    assert any(line.startswith("stopped: ") for line in err.splitlines())
    assert_all_end(home)
    ended = run_flows(home, "training", profile, *TOGETHER)
    assert ended.status == 0, ended.err
    assert digests(home) == digests(quiet_home)


def test_another_number_of_ranks_is_told_of_on_resuming(
    at_work, home, profile, run_flows
):
    at_work.terminate()
    at_work.communicate()
    ended = run_flows(home, "training", profile, *WORDS)
    assert ended.status == 0, ended.err
    said = " ".join(ended.err.split())
    assert "resumed although ranks was 2, is 1; its bytes may differ" in said


def test_a_rank_that_is_killed_fails_the_stage_in_one_line(at_work, home):
    os.kill(ranks(home)[1], signal.SIGKILL)
    _, err = at_work.communicate(timeout=DEADLINE_SECONDS)
    assert at_work.returncode == 1
    assert "a rank was killed; if it was for memory, lower" in " ".join(err.split())
    assert "Traceback" not in err
    assert_all_end(home)


def test_an_sae_that_diverges_in_ranks_leaves_its_siblings(home, profile, run_flows):
    wild = (*WORDS, "saes.0.lr=1e30", "training.epochs=2")
    together = run_flows(home, "training", profile, *wild, "compute.ranks_per_sae=2")
    assert together.status == 1
    said = " ".join(together.err.split())
    assert (
        "training topk-k2-lr1e+30: found a loss or gradient that is not finite" in said
    )
    assert "all rows of its batch are finite; lower lr (the checkpoint of step" in said
    assert len(list(home.glob("training/*/MANIFEST.json"))) == 2


@pytest.fixture
def job(home, profile, monkeypatch):
    """Return what ranks are given for the first SAE of the profile."""
    monkeypatch.setenv(homes.VARIABLE, str(home))
    plan = planning.make(config.load(profile, TOGETHER), Home(home))
    store = harvest.open_store(plan, "train")
    hook = plan.run.hooks[0]
    norm = float(store.statistics(hook)["mean_squared_norm"])
    start = Start(store.d_in(hook), store.mean(hook), norm)
    step = plan.of("training")[0]
    return Job(plan, {hook: start}, range(6), {step.key: home / "kept"})


def told(job):
    return list(torchrun.told_by("tasks.rank", job, num_ranks=2, asked=lambda: False))


def test_ranks_tell_each_row_once_and_leave_a_last_checkpoint(job, home):
    rows = [values[1] for what, values in told(job) if what == "row"]
    assert [row["step"] for row in rows] == [4, 6]
    assert (home / "kept" / "checkpoints" / f"{6:010d}").is_dir()


def test_a_full_or_broken_disk_under_a_rank_is_one_line(job, home):
    (home / "kept").write_text("a file where a folder belongs")
    with pytest.raises(ValueError, match=r"(Not a directory|File exists).*kept"):
        told(job)


def test_a_bug_in_a_rank_keeps_its_traceback(job):
    broken = job._replace(plan=None)
    with pytest.raises(RuntimeError, match=r"a rank failed:[^$]*AttributeError"):
        told(broken)


def test_more_ranks_than_a_batch_has_rows_are_refused(home, profile, run_flows):
    ended = run_flows(home, "training", profile, "compute.ranks_per_sae=257")
    assert ended.status == 1
    assert (
        "compute.ranks_per_sae: found 257, but the last batch of an epoch has only 256 "
        "rows; lower it, or change training.batch_tokens"
    ) in " ".join(ended.err.split())
