"""W&B offline: what was logged is on the disk, and a damaged log is an error."""

from pathlib import Path

import pytest

from storage.home import Home
from tasks import plan as planning
from tasks import tracking
from trilemma import config


@pytest.fixture
def plan(tmp_path):
    return planning.make(config.load("configs/toy.yaml"), Home(tmp_path))


@pytest.fixture
def run(plan):
    return tracking.start(plan, run_id="abc", name="n", job="sharing", config={})


def test_finished_run_keeps_rows_and_artifacts(run, tmp_path):
    (tmp_path / "sae").mkdir()
    (tmp_path / "sae" / "cfg.json").write_text("{}")
    name = tracking.log_folder(run, "sae-1", "sae", tmp_path / "sae", {"key": "1"})
    tracking.log_table(run, "family", [{"sae": "a", "fvu": 0.5}])
    run.finish()
    record = tracking.checked(run, "offline", [name])
    assert record["artifacts"] == ["sae-1"]
    assert record["rows"] == 1


def test_lost_artifact_is_an_error_that_names_it(run):
    run.log({"x": 1.0})
    run.finish()
    with pytest.raises(tracking.TrackingError, match=r"W&B lost sae-9"):
        tracking.checked(run, "offline", ["sae-9"])


def test_damaged_log_is_an_error(run):
    run.log({"x": 1.0})
    run.finish()
    tracking.checked(run, "offline", [])
    folder = Path(run.dir).parent
    (path,) = folder.glob("*.wandb")
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)
    with pytest.raises(tracking.TrackingError, match="damaged at byte 7"):
        tracking.kept(folder)


def test_missing_log_is_an_error(tmp_path):
    with pytest.raises(tracking.TrackingError, match="found no W&B log"):
        tracking.kept(tmp_path)


def test_a_row_is_named_by_what_it_was_measured_on():
    row = {"step": 4, "fvu": 0.5, "dead_fraction": 0.0, "eval_silent_fraction": 0.25}
    assert tracking.named(row | {"eval_fvu": None}) == {
        "train/fvu": 0.5,
        "train/dead_fraction": 0.0,
        "eval/silent_fraction": 0.25,
    }


def test_curve_goes_to_a_run_named_by_the_artifact(plan):
    step = plan.step("training", "topk-k3")
    row = dict.fromkeys(
        ("tokens", "loss", "fvu", "l0", "dead_fraction", "lr", "sparsity_coefficient"),
        0.5,
    )
    with tracking.opened(plan, step, 0) as tracker:
        tracker.log({"step": 4} | row)
        tracker.log({"step": 8} | row)
    (folder,) = (plan.home.path / "wandb").glob(f"offline-run-*-{step.key}")
    record = tracking.settled(folder)
    assert (record.history_rows, record.finished) == (2, True)
