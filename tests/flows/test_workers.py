"""However many workers share a harvest, and wherever they run, the bytes are equal."""

import json
import multiprocessing
import os
import pickle
import re
import shutil
import threading

import pytest
from prefect.states import Completed, Failed, Running

from storage.home import Home
from storage.places import LocalPlace
from tasks import harvest, workers
from tasks import plan as planning
from tasks.activations import open_sources
from tasks.corpus import SPLITS
from tasks.harvesting import Progress, Settings
from tasks.interruption import Interrupted
from trilemma import config
from trilemma.config import TOY_HOOK
from trilemma.config.stages import Compute

pytestmark = pytest.mark.slow
WAIT_SECONDS = 30


def digest(home):
    (manifest,) = home.glob("harvest/*/MANIFEST.json")
    return json.loads(manifest.read_text())["digest"]


class Future:
    """A future of a cluster, which is final after it was asked so many times."""

    def __init__(self, turns, error=None):
        self.state = Running()
        self.is_cancelled = False
        self._turns = turns
        self._error = error

    def wait(self, timeout):
        assert timeout == 0  # or the others would not be looked at
        self._turns -= 1
        if self._turns <= 0:
            self.state = Failed() if self._error else Completed()

    def result(self):
        if self._error is not None:
            raise self._error

    def cancel(self):
        self.is_cancelled = True


def wait_for_all(futures, pause=lambda: None):
    workers._wait_for_all(futures, pause=pause, cancel=Future.cancel)


@pytest.fixture(scope="module")
def alone(tmp_path_factory, text_profile, run_flows):
    """Return the home of a harvest by one process, in as many threads as others."""
    home = tmp_path_factory.mktemp("alone")
    ended = run_flows(home, "harvest", text_profile, "compute.threads=1")
    assert ended.status == 0, ended.err
    return home


@pytest.fixture
def share(tmp_path, profile):
    """Return the share of one of two workers in a small toy's harvest, just begun."""
    run = config.load(profile, ("compute.devices=2", "compute.threads=1"))
    plan = planning.make(run, Home(tmp_path))
    opened = open_sources(plan, None)
    share = harvest._share(plan, LocalPlace(tmp_path / "store"), opened)
    for split in SPLITS:
        share.writer(split)
    return share._replace(threads=1)


@pytest.mark.parametrize("runner", ["local", "ray"])
def test_two_workers_leave_the_bytes_of_one(
    runner, alone, text_profile, tmp_path, run_flows
):
    home = tmp_path / "home"
    shutil.copytree(alone, home)
    shutil.rmtree(home / "harvest")
    words = ["compute.threads=1", "compute.devices=2", f"compute.runner={runner}"]
    ended = run_flows(home, "harvest", text_profile, *words)
    assert ended.status == 0, ended.err
    assert digest(home) == digest(alone)


def test_a_workers_mistake_is_the_callers_in_one_line(tmp_path, profile):
    plan = planning.make(config.load(profile), Home(tmp_path))
    share = workers.Share(
        plan=plan,
        url="ftp://nowhere",
        layout=None,
        settings=Settings(1, 10.0),
        num_seqs={"train": 1, "eval": 1},
        worker=0,
        num_workers=1,
        threads=1,
    )
    with pytest.raises(ValueError, match="ftp://nowhere"):
        workers.work_together(share, asked=lambda: False, look=lambda queued: None)


def test_a_worker_that_is_killed_is_told_of(tmp_path, profile, monkeypatch):
    monkeypatch.setattr(workers, "START", "fork")
    monkeypatch.setattr(workers, "_do", lambda *_, **__: os.kill(os.getpid(), 9))
    plan = planning.make(config.load(profile), Home(tmp_path))
    share = workers.Share(plan, "", None, Settings(1, 10.0), {}, 0, 1, 1)
    with pytest.raises(workers.WorkerError, match="worker 0 ended with status -9"):
        workers.work_together(share, asked=lambda: False, look=lambda queued: None)


def test_workers_that_end_well_are_never_taken_for_killed_ones(share):
    for _ in range(3):  # from the second time on there is nothing to do
        workers.work_together(share, asked=lambda: False, look=lambda queued: None)
    assert [share.writer(split).missing() for split in SPLITS] == [[], []]


def test_what_waits_for_the_disk_is_the_sum_over_all_workers(share, monkeypatch):
    is_shown = multiprocessing.get_context("fork").Event()

    def work(share, *, asked, report):
        report(Progress(rows=1, queued=2 + share.worker))
        # Python's own end in the fork of a process with threads can fail by itself.
        os._exit(0 if is_shown.wait(WAIT_SECONDS) else 1)

    def look(queued):
        if queued == 2 + 3:
            is_shown.set()

    monkeypatch.setattr(workers, "START", "fork")
    monkeypatch.setattr(workers, "_LOOK_SECONDS", 0)
    monkeypatch.setattr(workers, "_do", work)
    workers.work_together(share, asked=lambda: False, look=look)
    assert is_shown.is_set()


def test_a_failed_task_of_a_cluster_is_told_of_while_others_go_on():
    slow, failed = Future(1000), Future(1, ValueError("no room"))
    with pytest.raises(ValueError, match="no room"):
        wait_for_all([slow, failed])
    assert slow.is_cancelled
    assert not slow.state.is_final()


def test_what_watches_a_cluster_is_sent_along_with_its_tasks():
    stopped = threading.Event()
    stopped.set()
    here = workers._Watch(stopped.is_set, print)
    with pytest.raises(Interrupted):
        here.pause()
    pickle.loads(pickle.dumps(here)).pause()


def test_tasks_of_a_cluster_are_waited_for_to_the_last():
    futures = [Future(1), Future(5), Future(3)]
    wait_for_all(futures)
    assert all(future.state.is_completed() for future in futures)
    assert not any(future.is_cancelled for future in futures)


def test_tasks_of_a_cluster_are_cancelled_when_the_run_is_asked_to_stop():
    futures = [Future(1), Future(1000)]
    turns = iter(range(3))

    def pause():
        if next(turns) == 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        wait_for_all(futures, pause)
    assert [future.is_cancelled for future in futures] == [False, True]


def do(share):
    workers._do(share, asked=lambda: False, report=lambda progress: None)


@pytest.mark.parametrize(
    ("field", "theirs", "found"),
    [
        (
            "provenance",
            {"attention": "eager"},
            "provenance.attention unknown, the run has 'eager'",
        ),
        ("widths", {TOY_HOOK: 9}, f"widths.{TOY_HOOK} 8, the run has 9"),
    ],
)
def test_a_worker_whose_activations_are_of_another_kind_writes_none(
    share, field, theirs, found
):
    before = share.writer("train").missing()
    known = getattr(share.layout, field)
    layout = share.layout._replace(**{field: known | theirs})
    with pytest.raises(ValueError, match=re.escape(found)) as error:
        do(share._replace(layout=layout))
    assert str(error.value) == (
        f"harvest: worker 0 has {found}; give all nodes the same libraries and devices"
    )
    assert share.writer("train").missing() == before


def test_a_worker_with_a_home_of_its_own_begins_no_store_there(share, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    with pytest.raises(ValueError, match="the home must be shared") as error:
        do(share._replace(url=str(elsewhere)))
    assert str(error.value) == (
        f"harvest: worker 0 finds no train store in {elsewhere}, where the run began "
        "one; the home must be shared by all nodes"
    )
    assert not elsewhere.exists()


def test_more_threads_than_cores_are_told_of_and_not_changed(
    tmp_path, profile, run_flows
):
    cores = os.cpu_count()
    words = ["compute.devices=2", f"compute.threads={cores}"]
    ended = run_flows(tmp_path, "harvest", profile, *words)
    assert ended.status == 0, ended.err
    assert f"harvest: 2 workers of {cores} threads each share {cores} cores" in (
        " ".join(ended.err.split())
    )
    (run,) = tmp_path.glob("harvest/*/RUN.json")
    assert json.loads(run.read_text())["threads"] == cores


@pytest.mark.parametrize(
    ("words", "threads", "is_told"),
    [
        ({"devices": 2}, 4, False),
        ({"devices": 2}, 5, True),
        ({"devices": 1}, 9, False),
        ({"devices": 2, "runner": "ray"}, 9, False),
    ],
)
def test_threads_that_have_a_core_each_are_not_told_of(words, threads, is_told):
    line = workers.crowding(Compute(**words), threads=threads, cores=8)
    assert (line is not None) is is_told
