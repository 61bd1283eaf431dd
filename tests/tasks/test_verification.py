"""Verification of a run: which artifacts are damaged, and nothing else."""

import uuid

import pytest
from prefect.logging import disable_run_logger

from storage import artifacts
from storage.home import Home
from storage.places import open_place
from tasks import plan as planning
from tasks import stage, verification
from trilemma import config


@pytest.fixture(params=["folder", "bucket"])
def plan(request, tmp_path):
    """Return the plan of a toy run whose first two stages are made."""
    bucket = open_place(f"memory://{uuid.uuid4()}")
    home = Home(tmp_path / "home", bucket if request.param == "bucket" else None)
    found = planning.make(config.load("configs/toy.yaml"), home)
    with disable_run_logger():
        for name in ("harvest", "training"):
            stage.perform(found, found.of(name), committing, force=False)
    return found


def committing(work):
    for step in work.pending:
        (work.folder(step) / "a.txt").write_text(step.title)
        work.commit(step)


def verify(plan):
    return verification.verify(plan, say=lambda line: None)


def test_run_without_damage_is_counted(plan):
    made = [*plan.of("harvest"), *plan.of("training")]
    # The machine that made a bucket's artifacts has copies of them.
    copies = 1 if plan.home.bucket is None else 2
    size = copies * sum(len(step.title) for step in made)
    assert verify(plan) == verification.Verified(len(made), size, {})


def test_changed_byte_is_told_under_the_title_of_its_step(plan):
    step = plan.of("training")[0]
    step.location.place.put("a.txt", step.title.replace("t", "x").encode())
    found = verify(plan)
    (line,) = found.faults[step.title]
    assert list(found.faults) == [step.title]
    assert line == f"{step.location.place.url}/a.txt: its bytes have changed"


def test_torn_manifest_is_told_and_the_others_are_checked(plan):
    (step,) = plan.of("harvest")
    step.location.place.put(artifacts.MANIFEST, b"{")
    found = verify(plan)
    assert found.checked == 1 + len(plan.of("training"))
    assert list(found.faults) == ["harvest"]
    assert "is not a manifest" in found.faults["harvest"][0]


def test_what_was_made_from_other_bytes_is_told(plan):
    place = plan.step("harvest").location.place
    files = {"b.txt": artifacts.File(bytes=1, sha256="0" * 64)}
    manifest = artifacts.read_manifest(place)
    changed = {"files": files, "digest": artifacts.digest_of(files)}
    place.put(artifacts.MANIFEST, manifest.model_copy(update=changed).text())
    faults = verify(plan).faults
    titles = {step.title for step in plan.of("training")}
    assert set(faults) == {"harvest"} | titles
    assert all("is stale or altered: harvest has" in faults[t][0] for t in titles)
