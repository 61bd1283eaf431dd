"""However many workers share a harvest, and wherever they run, the bytes are equal."""

import json
import multiprocessing
import os
import shutil

import pytest

from storage.home import Home
from storage.places import LocalPlace
from tasks import harvest, workers
from tasks import plan as planning
from tasks.activations import open_sources
from tasks.corpus import SPLITS
from tasks.harvesting import Progress, Settings
from trilemma import config

pytestmark = pytest.mark.slow
WAIT_SECONDS = 30


def digest(home):
    (manifest,) = home.glob("harvest/*/MANIFEST.json")
    return json.loads(manifest.read_text())["digest"]


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
        assert is_shown.wait(WAIT_SECONDS)

    def look(queued):
        if queued == 2 + 3:
            is_shown.set()

    monkeypatch.setattr(workers, "START", "fork")
    monkeypatch.setattr(workers, "_LOOK_SECONDS", 0)
    monkeypatch.setattr(workers, "_do", work)
    workers.work_together(share, asked=lambda: False, look=look)
    assert is_shown.is_set()
