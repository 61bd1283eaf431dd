"""The pipeline in one process: what is made, what is cached, what is made again."""

import json
import shutil

import jsonschema
import pytest

from flows.evaluation import evaluation as evaluation_flow
from flows.pipeline import Ending
from flows.run import run as run_flow
from flows.training import training as training_flow
from storage import artifacts
from storage import home as homes
from storage.home import Home
from tasks import plan as planning
from tasks import summary, training
from trilemma import config
from trilemma.sae import SAE

pytestmark = pytest.mark.usefixtures("prefect")
HEX16 = {"type": "string", "pattern": "^[0-9a-f]{16}$"}
HEX64 = {"type": "string", "pattern": "^[0-9a-f]{64}$"}


def closed(**properties):
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


PARENT = closed(key=HEX16, digest=HEX64)
FILE = closed(bytes={"type": "integer", "minimum": 0}, sha256=HEX64)
MANIFEST = closed(
    stage={"enum": list(planning.STAGES)},
    key=HEX16,
    version={"type": "integer"},
    config={"type": "object"},
    parents={"type": "object", "additionalProperties": PARENT},
    files={"type": "object", "additionalProperties": FILE},
    digest=HEX64,
)
RUN = closed(
    seconds={"type": "number", "minimum": 0},
    peak_memory_bytes={"type": "integer", "minimum": 1},
    device={"enum": ["cpu", "cuda"]},
    processor={"type": "string"},
    threads={"type": "integer", "minimum": 1},
    ranks={"type": "integer", "minimum": 1},
    versions={"type": "object", "additionalProperties": {"type": "string"}},
    time={"type": "string"},
)
STATE = closed(
    stage={"enum": list(planning.STAGES)},
    name={"type": "string"},
    key=HEX16,
    state={"enum": ["done", "stale", "partial", "missing", "running", "failed"]},
    seconds={"type": ["number", "null"]},
    bytes={"type": ["integer", "null"]},
    path={"type": "string"},
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, profile, prefect):
    """Return the home of a finished run; tests copy it before they change it."""
    home = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(homes.VARIABLE, str(home))
        ended(run_flow, config.load(profile))
    return home


@pytest.fixture
def copy(finished, tmp_path, monkeypatch):
    """Return a copy of a finished home, in use."""
    home = tmp_path / "copy"
    shutil.copytree(finished, home)
    monkeypatch.setenv(homes.VARIABLE, str(home))
    return home


def ended(flow, run, **settings) -> Ending:
    ending = flow(run, **settings, return_state=True).result(raise_on_failure=False)
    assert isinstance(ending, Ending), ending
    return ending


def stages(titles) -> set[str]:
    return {title.partition(" ")[0] for title in titles}


def test_first_run_makes_every_step(finished, profile):
    plan = planning.make(config.load(profile), Home(finished))
    assert {step.state() for step in plan.steps} == {"done"}


def test_second_run_finds_every_step_cached(copy, profile):
    ending = ended(run_flow, config.load(profile))
    assert (len(ending.made), len(ending.failed)) == (0, 0)


def test_cached_run_ends_in_a_state_named_cached(copy, profile):
    assert run_flow(config.load(profile), return_state=True).name == "Cached"


def test_num_latents_reruns_explanation_and_what_follows_it(copy, profile):
    run = config.load(profile, ("explanation.num_latents=2",))
    assert stages(ended(run_flow, run).made) == {"explanation", "reporting", "sharing"}


def test_another_k_retrains_that_sae_alone(copy, profile):
    ending = ended(run_flow, config.load(profile, ("saes.0.k=3",)))
    assert sorted(ending.made) == [
        "evaluation topk-k3",
        "explanation topk-k3",
        "reporting",
        "sharing",
        "training topk-k3",
    ]


@pytest.mark.parametrize("stage", ["harvest", "training", "reporting"])
def test_deleted_stage_alone_is_made_again(copy, profile, stage):
    shutil.rmtree(copy / stage)
    assert stages(ended(run_flow, config.load(profile)).made) == {stage}


def test_stage_made_again_has_the_same_digest(copy, profile, finished, digests):
    for stage in ("harvest", "training", "evaluation", "explanation", "reporting"):
        shutil.rmtree(copy / stage)
    ended(run_flow, config.load(profile))
    assert digests(copy) == digests(finished)


def test_forced_stage_is_made_again_and_what_follows_stays(copy, profile, digests):
    before = digests(copy)
    ending = ended(training_flow, config.load(profile), force=True)
    assert stages(ending.made) == {"training"}
    assert digests(copy) == before
    assert ended(run_flow, config.load(profile)).made == ()


def test_stage_flow_runs_only_what_it_lacks(tmp_path, monkeypatch, profile):
    monkeypatch.setenv(homes.VARIABLE, str(tmp_path / "home"))
    ending = ended(evaluation_flow, config.load(profile))
    assert stages(ending.made) == {"harvest", "training", "evaluation"}


def test_changed_parent_makes_its_children_stale(copy, profile):
    plan = planning.make(config.load(profile), Home(copy))
    step = plan.step("harvest")
    manifest = step.manifest()
    changed = manifest.model_copy(update={"digest": "0" * 64})
    (step.folder / artifacts.MANIFEST).write_text(changed.model_dump_json())
    assert plan.step("training", "topk-k2").state() == "stale"


def test_sae_that_fails_leaves_its_siblings_trained(tmp_path, monkeypatch, profile):
    monkeypatch.setenv(homes.VARIABLE, str(tmp_path / "home"))
    run = config.load(profile, ("saes.0.lr=1e30", "training.clip_norm=1e30"))
    ending = ended(run_flow, run)
    failed = "training topk-k2-lr1e+30"
    assert list(ending.failed) == [failed]
    assert "not finite" in ending.failed[failed]
    assert "evaluation batchtopk-k2" in ending.made
    assert "reporting" not in stages(ending.made)
    plan = planning.make(run, Home(tmp_path / "home"))
    assert plan.step("training", failed.partition(" ")[2]).state() == "failed"


def test_full_disk_is_told_before_anything_is_lost(copy, profile):
    run = config.load(profile, ("saes.0.d_sae=40000000000",))
    ending = ended(run_flow, run)
    assert "MiB free, about" in next(iter(ending.failed.values()))


def test_store_that_does_not_match_its_manifest_fails_in_one_line(copy, profile):
    (chunk,) = copy.glob("harvest/*/train.zarr/mask/c/0")
    chunk.write_bytes(chunk.read_bytes() + b"x")
    ending = ended(run_flow, config.load(profile, ("saes.0.k=3",)))
    assert "the manifest says" in ending.failed["training topk-k3"]


def test_manifests_and_run_records_have_their_shape(finished):
    manifests = sorted(finished.glob("*/*/MANIFEST.json"))
    assert len(manifests) == 13
    for path in manifests:
        jsonschema.validate(json.loads(path.read_text()), MANIFEST)
        jsonschema.validate(json.loads(path.with_name("RUN.json").read_text()), RUN)


def test_show_lists_every_step_in_its_shape(finished, profile):
    plan = planning.make(config.load(profile), Home(finished))
    rows = json.loads(summary.states_json(plan))
    jsonschema.validate(rows, {"type": "array", "items": STATE, "minItems": 13})
    assert "topk-k2" in summary.states_text(plan)


def test_ending_tells_time_family_and_report(finished, profile):
    plan = planning.make(config.load(profile), Home(finished))
    titles = tuple(step.title for step in plan.steps)
    text = summary.ending_text(plan, (), titles, 12.0)
    assert "where the time went" in text
    assert "frozen-random" in text
    assert str(plan.step("reporting").folder / "index.html") in text


def test_time_counts_only_what_this_command_made(finished, profile):
    plan = planning.make(config.load(profile), Home(finished))
    text = summary.ending_text(plan, ("harvest",), (), 12.0)
    rows = {line.split("  ")[0]: line.split()[1:] for line in text.splitlines()}
    assert rows["harvest"] == ["0.0", "1", "of", "1"]
    assert rows["training"] == ["-", "-"]
    assert rows["all"] == ["12.0", "1", "of", "13"]
    assert rows["Prefect, imports"] == ["imports", "12.0"]


def test_torn_manifest_fails_its_step_in_one_line_and_spares_its_siblings(
    copy, profile
):
    run = config.load(profile)
    step = planning.make(run, Home(copy)).step("training", "topk-k2")
    path = step.folder / artifacts.MANIFEST
    path.write_text(path.read_text()[:40])
    ending = ended(run_flow, run)
    assert list(ending.failed) == [step.title]
    assert f"delete {step.folder}" in ending.failed[step.title]
    assert "evaluation batchtopk-k2" in ending.cached
    assert "evaluation topk-k2" not in ending.cached
    shutil.rmtree(step.folder)
    assert ended(run_flow, run).made == (step.title,)


def test_what_is_left_out_is_said(copy, profile, caplog):
    run = config.load(profile)
    step = planning.make(run, Home(copy)).step("explanation", "topk-k2")
    (step.folder / artifacts.MANIFEST).write_text("{")
    with caplog.at_level("WARNING"):
        ended(run_flow, run)
    said = [record.getMessage() for record in caplog.records]
    assert "reporting left out: its parents failed" in said


def test_what_cannot_change_the_bytes_is_in_no_key(profile, finished):
    words = (
        "compute.threads=1",
        "compute.prefetch=false",
        "training.checkpoint_every_steps=7",
    )
    first = planning.make(config.load(profile), Home(finished))
    second = planning.make(config.load(profile, words), Home(finished))
    assert [step.key for step in first.steps] == [step.key for step in second.steps]


def test_trained_sae_is_the_one_that_was_trained_alone(copy, profile, finished):
    run = config.load(profile, ("saes=[{kind: batchtopk, d_sae: 12, k: 2}]",))
    shutil.rmtree(copy / "training")
    ended(training_flow, run)
    step = planning.make(run, Home(copy)).step("training", "batchtopk-k2")
    together = SAE.load(finished / "training" / step.key / training.SAE_FOLDER)
    alone = training.load_sae(step, "cpu")
    for name, weight in together.state_dict().items():
        assert (alone.state_dict()[name] == weight).all()
