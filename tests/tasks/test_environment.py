"""Environments: what a resumed stage compares, and which device it takes."""

import pytest
import torch

from tasks import environment
from trilemma.config.stages import Compute


@pytest.fixture
def now():
    return environment.read(Compute(), 1.0, stage="training")


def test_nothing_differs_from_itself(now):
    assert environment.differences(now, now) == []


def test_time_and_memory_are_no_difference(now):
    later = now.model_copy(update={"seconds": 9.0, "time": "x", "peak_memory_bytes": 1})
    assert environment.differences(now, later) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"threads": 99}, "threads was 99"),
        ({"ranks": 3}, "ranks was 3, is 1"),
        ({"processor": "vax"}, "processor was vax"),
        ({"versions": {"torch": "0.1"}}, "torch was 0.1, is "),
    ],
)
def test_what_may_change_the_bytes_is_named(now, change, said):
    lines = environment.differences(now.model_copy(update=change), now)
    assert any(line.startswith(said) for line in lines)


def test_missing_gpu_is_an_error_that_says_what_to_use(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"compute\.device: found 'cuda'.*use auto"):
        environment.device(Compute(device="cuda"))


def test_threads_are_set_for_one_run_alone():
    before = torch.get_num_threads()
    with environment.prepared(Compute(threads=1)):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_only_training_has_ranks():
    compute = Compute(ranks_per_sae=4)
    stages = ("harvest", "training")
    found = [environment.read(compute, 1.0, stage=stage).ranks for stage in stages]
    assert found == [1, 4]
