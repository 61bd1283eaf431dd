"""Every way to read and keep activations, at once: folded, sdpa, int8 in shards."""

import importlib.metadata
import json
import shutil

import pytest
import torch

from flows.evaluation import evaluation as evaluation_flow
from flows.harvest import harvest as harvest_flow
from flows.training import training as training_flow
from storage import home as homes
from storage.home import Home
from storage.store import torch_dtype
from tasks import corpus, harvest, lm, training
from tasks import plan as planning
from trilemma import config
from trilemma.lm import LM, tokenizer_digest

pytestmark = [pytest.mark.usefixtures("prefect"), pytest.mark.slow]
INNER = "blocks.1.mlp.hook_post"
WIDTHS = {"blocks.0.hook_resid_post": 32, "blocks.1.hook_mlp_out": 32, INNER: 128}
WORDS = (
    "lm.processing=folded",
    "harvest.attention=sdpa",
    f"harvest.hooks=[{', '.join(WIDTHS)}]",
    f"saes=[{{kind: topk, d_sae: 64, k: 4, hook: {INNER}}}]",
    "store.dtype=int8",
    "store.codec=shuffle-zstd",
    "store.shard_chunks=4",
    "evaluation.ce_seqs=16",
)
LIMIT = 24


@pytest.fixture(scope="module")
def plan(tmp_path_factory, text_profile, prefect):
    """Return the plan of a run whose SAEs have been trained."""
    home = tmp_path_factory.mktemp("settings")
    run = config.load(text_profile, WORDS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(homes.VARIABLE, str(home))
        state = training_flow(run, force=False, return_state=True)
    assert state.is_completed(), state.message
    return planning.make(run, Home(home))


@pytest.fixture
def evaluated(plan, tmp_path, monkeypatch):
    """Return a function that evaluates a copy of that run after a change to it."""
    home = tmp_path / "home"
    shutil.copytree(plan.home.path, home)
    monkeypatch.setenv(homes.VARIABLE, str(home))

    def evaluate(change):
        copy = planning.make(plan.run, Home(home))
        change(copy)
        return evaluation_flow(plan.run, force=False, return_state=True)

    return evaluate


def doctor(step, **values):
    """Change what an SAE says of the activations that it was trained on."""
    path = step.folder / training.SAE_FOLDER / "cfg.json"
    settings = json.loads(path.read_text())
    settings["metadata"]["trilemma_origin"] |= values
    path.write_text(json.dumps(settings))


@pytest.mark.parametrize("hook", WIDTHS)
def test_stored_rows_are_what_the_folded_lm_computes_but_for_rounding(plan, hook):
    model = LM.load(
        lm.folder(plan),
        dtype=torch_dtype("float32"),
        device="cpu",
        processing="folded",
        attention="sdpa",
    )
    store = harvest.open_store(plan, "train")
    assert store.d_in(hook) == WIDTHS[hook]
    for batch in store.sequences(hook, 8, limit=LIMIT):
        x = model.activations(batch.tokens, [hook])[hook]
        step = x.abs().amax(-1, keepdim=True) / 127
        assert ((batch.x - x).abs() <= 0.51 * step + 1e-4).all()


def test_store_is_cut_and_encoded_as_the_settings_say(plan):
    store = harvest.open_store(plan, "train")
    array = store.group[f"{INNER}/activations"]
    assert set(store.dtypes.values()) == {"int8"}
    assert array.shards == (4 * array.chunks[0], array.chunks[1])
    assert any("blosc" in repr(codec).lower() for codec in array.compressors)


@pytest.mark.parametrize("split", ["train", "eval"])
def test_store_tells_what_its_activations_are_of(plan, split):
    store = harvest.open_store(plan, split)
    attributes = dict(store.group.attrs)["provenance"]
    assert attributes == store.provenance
    info = corpus.read_info(plan)
    assert attributes == {
        "lm": plan.step("lm").section,
        "lm_dtype": "float32",
        "processing": "folded",
        # Folded, this LM has no fused attention; told is what was computed with.
        "attention": "eager",
        "tokenizer": tokenizer_digest(lm.folder(plan)),
        "corpus": plan.step("corpus").section,
        "documents": info["num_documents"],
        "parents": {
            name: {
                "key": plan.step(name).key,
                "digest": plan.step(name).manifest().digest,
            }
            for name in ("lm", "corpus")
        },
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("torch", "transformers", "transformer-lens", "numpy")
        },
    }
    splits = [info[name]["num_documents"] for name in ("train", "eval")]
    assert sum(splits) <= attributes["documents"]


def test_store_tells_that_attention_was_fused(plan, text_profile, monkeypatch):
    monkeypatch.setenv(homes.VARIABLE, str(plan.home.path))
    run = config.load(text_profile, (*WORDS, "lm.processing=none"))
    state = harvest_flow(run, force=False, return_state=True)
    assert state.is_completed(), state.message
    store = harvest.open_store(planning.make(run, plan.home), "train")
    assert store.provenance["processing"] == "none"
    assert store.provenance["attention"] == "sdpa"


def test_sae_records_the_origin_of_its_activations(plan):
    sae = training.load_sae(plan.step("training", "topk-k4"), "cpu")
    origin = sae.metadata["trilemma_origin"]
    assert (origin["processing"], origin["hook"]) == ("folded", INNER)
    assert (origin["dtype"], origin["ctx"]) == ("int8", 32)
    assert torch.isfinite(sae.W_dec).all()


def test_int8_tells_what_rounding_adds(plan):
    store = harvest.open_store(plan, "train")
    for hook in WIDTHS:
        assert 0 < store.statistics(hook)["int8_fvu"] < 0.01


@pytest.mark.parametrize(
    "word", ["lm.processing=none", "harvest.attention=eager", "store.dtype=float16"]
)
def test_what_changes_activations_changes_the_harvest_alone(plan, text_profile, word):
    other = planning.make(config.load(text_profile, (*WORDS, word)), plan.home)
    for stage in ("lm", "corpus"):
        assert other.step(stage).key == plan.step(stage).key
    assert other.step("harvest").key != plan.step("harvest").key


def test_sae_of_the_same_origin_is_evaluated(evaluated):
    state = evaluated(lambda copy: None)
    assert state.is_completed(), state.message


def test_sae_of_another_origin_is_refused_in_one_line(evaluated):
    state = evaluated(
        lambda copy: doctor(copy.step("training", "topk-k4"), processing="none")
    )
    assert state.is_failed()
    assert state.message == (
        "evaluation topk-k4: activations of processing 'none' meet those of 'folded'; "
        "use those of one kind"
    )


def test_sae_of_another_dtype_is_evaluated_with_a_warning(evaluated, caplog):
    with caplog.at_level("WARNING"):
        state = evaluated(
            lambda copy: doctor(copy.step("training", "topk-k4"), dtype="float16")
        )
    assert state.is_completed(), state.message
    said = [record.getMessage() for record in caplog.records]
    assert (
        "evaluation topk-k4: activations of dtype 'float16' meet those of 'int8'"
        in said
    )
