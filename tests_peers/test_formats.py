"""The peers' own packages load what is exported, and what they save is loaded."""

from pathlib import Path

import pytest
import sae_lens
import torch
from dictionary_learning import dictionary
from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
from dictionary_learning.trainers.top_k import AutoEncoderTopK
from safetensors.torch import load_file, save_file
from sparsify import SparseCoder, SparseCoderConfig
from tests_peers import trained

from trilemma.config.saes import SAEConfig
from trilemma.formats import files
from trilemma.formats.saelens import Activation
from trilemma.sae import SAE

D_IN, D_SAE, K = 16, 64, 4
ALL: tuple[Activation, ...] = ("relu", "topk", "jumprelu", "gated")


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rows() -> torch.Tensor:
    return drawn(200, D_IN, seed=99)


def an_sae(activation: Activation) -> SAE:
    is_gated = activation == "gated"
    return SAE(
        activation,
        W_enc=drawn(D_IN, D_SAE, seed=0) / 4,
        W_dec=torch.nn.functional.normalize(drawn(D_SAE, D_IN, seed=1), dim=1),
        b_dec=drawn(D_IN, seed=2),
        b_enc=None if is_gated else drawn(D_SAE, seed=3) / 4,
        threshold=drawn(D_SAE, seed=4).abs() if activation == "jumprelu" else None,
        b_gate=drawn(D_SAE, seed=5) / 4 if is_gated else None,
        b_mag=drawn(D_SAE, seed=6) / 4 if is_gated else None,
        r_mag=drawn(D_SAE, seed=7) / 4 if is_gated else None,
        k=K if activation == "topk" else None,
        metadata={"hook_name": "blocks.3.hook_resid_post", "context_size": 32},
    )


def shaken(module: torch.nn.Module) -> torch.nn.Module:
    """Return a peer's module with no weight left at its start, thresholds positive."""
    with torch.no_grad():
        for seed, (name, weight) in enumerate(module.named_parameters()):
            noise = drawn(*weight.shape, seed=seed) / 4
            weight.copy_(noise.abs() if name == "threshold" else noise)
    return module


@torch.no_grad()
def assert_same(ours: SAE, encode, decode, x: torch.Tensor | None = None) -> None:
    x = rows() if x is None else x
    acts = ours.encode(x)
    torch.testing.assert_close(encode(x), acts, rtol=0, atol=1e-5)
    torch.testing.assert_close(decode(acts), ours.decode(acts), rtol=0, atol=1e-5)


@pytest.mark.parametrize("activation", ALL)
def test_saelens_loads_what_is_exported(activation: Activation, tmp_path: Path) -> None:
    ours = an_sae(activation)
    ours.save(tmp_path)
    theirs = sae_lens.SAE.load_from_disk(tmp_path)
    assert_same(ours, theirs.encode, theirs.decode)


@pytest.mark.parametrize("activation", ALL)
def test_dictionary_learning_loads_what_is_exported(
    activation: Activation, tmp_path: Path
) -> None:
    ours = an_sae(activation)
    ours.save(tmp_path, "dictionary_learning")
    trainer = files.read_json(tmp_path / "config.json")["trainer"]
    assert trainer["layer"] == 3
    # As their `load_dictionary` does, whose module wants a package for its data sets.
    theirs = CLASSES[trainer["dict_class"]].from_pretrained(tmp_path / "ae.pt")
    assert_same(ours, theirs.encode, theirs.decode)


def dense(theirs: SparseCoder, x: torch.Tensor) -> torch.Tensor:
    found = theirs.encode(x)
    return torch.zeros(len(x), D_SAE).scatter(1, found.top_indices, found.top_acts)


def test_sparsify_loads_what_is_exported(tmp_path: Path) -> None:
    ours = an_sae("topk")
    ours.save(tmp_path, "sparsify")
    theirs = SparseCoder.load_from_disk(tmp_path)
    assert_same(
        ours, lambda x: dense(theirs, x), lambda acts: theirs.decode(*acts.topk(K))
    )


# A pursuit has no encoder, and no place in these formats.
@pytest.mark.parametrize(
    "config",
    [c for c in trained.CONFIGS if getattr(c, "inference", "encoder") == "encoder"],
    ids=str,
)
def test_scale_of_a_training_is_in_the_weights_that_peers_load(
    config: SAEConfig, tmp_path: Path
) -> None:
    ours, x = trained.trained(config), trained.rows()
    scale = ours.metadata["trilemma"]["activation_scale"]
    assert not 0.5 < scale < 2
    ours.save(tmp_path / "dl", "dictionary_learning")
    name = files.read_json(tmp_path / "dl/config.json")["trainer"]["dict_class"]
    theirs = CLASSES[name].from_pretrained(tmp_path / "dl/ae.pt")
    assert_same(ours, theirs.encode, theirs.decode, x)
    if ours.activation == "topk":
        ours.save(tmp_path / "sparsify", "sparsify")
        coder = SparseCoder.load_from_disk(tmp_path / "sparsify")
        assert_same(
            ours,
            lambda x: dense(coder, x),
            lambda acts: coder.decode(*acts.topk(K)),
            x,
        )


def test_what_sparsify_saved_is_loaded(tmp_path: Path) -> None:
    theirs = shaken(SparseCoder(D_IN, SparseCoderConfig(num_latents=D_SAE, k=K)))
    theirs.save_to_disk(tmp_path / "layers.3")
    ours = SAE.load(tmp_path / "layers.3")
    assert ours.metadata["hook_name"] == "blocks.3.hook_resid_post"
    assert_same(
        ours, lambda x: dense(theirs, x), lambda acts: theirs.decode(*acts.topk(K))
    )


DICTIONARIES = [
    dictionary.AutoEncoder(D_IN, D_SAE),
    dictionary.AutoEncoderNew(D_IN, D_SAE),
    dictionary.GatedAutoEncoder(D_IN, D_SAE),
    dictionary.JumpReluAutoEncoder(D_IN, D_SAE),
    AutoEncoderTopK(D_IN, D_SAE, K),
    BatchTopKSAE(D_IN, D_SAE, K),
    MatryoshkaBatchTopKSAE(D_IN, D_SAE, K, [16, 48]),
]
CLASSES = {type(theirs).__name__: type(theirs) for theirs in DICTIONARIES}


@pytest.mark.parametrize("threshold", [-1.0, 0.3])
@pytest.mark.parametrize("theirs", DICTIONARIES, ids=lambda it: type(it).__name__)
def test_what_dictionary_learning_saved_is_loaded(
    theirs: dictionary.Dictionary, threshold: float, tmp_path: Path
) -> None:
    shaken(theirs)
    if "threshold" in dict(theirs.named_buffers()):
        theirs.threshold.fill_(threshold)
    torch.save(theirs.state_dict(), tmp_path / "ae.pt")
    trainer = {"dict_class": type(theirs).__name__, "layer": 3, "lm_name": "an/lm"}
    files.write_json(tmp_path / "config.json", {"trainer": trainer, "buffer": {}})
    ours = SAE.load(tmp_path)
    assert ours.metadata["hook_name"] == "blocks.3.hook_resid_post"
    assert_same(ours, theirs.encode, theirs.decode)


@pytest.mark.parametrize("is_centred", [True, False])
@pytest.mark.parametrize(
    "theirs",
    [sae_lens.StandardSAEConfig, sae_lens.JumpReLUSAEConfig, sae_lens.GatedSAEConfig],
)
def test_what_saelens_saved_is_loaded(theirs, is_centred, tmp_path: Path) -> None:
    config = theirs(d_in=D_IN, d_sae=D_SAE, apply_b_dec_to_input=is_centred)
    sae_class = sae_lens.SAE.get_sae_class_for_architecture(config.architecture())
    sae = shaken(sae_class(config))
    sae.save_model(tmp_path)
    assert_same(SAE.load(tmp_path), sae.encode, sae.decode)


def test_rescaling_by_decoder_norms_is_loaded(tmp_path: Path) -> None:
    config = sae_lens.TopKSAEConfig(
        d_in=D_IN, d_sae=D_SAE, k=K, rescale_acts_by_decoder_norm=True
    )
    theirs = shaken(sae_lens.TopKSAE(config))
    theirs.save_model(tmp_path)
    assert_same(SAE.load(tmp_path), theirs.encode, theirs.decode)


def test_a_scaling_factor_of_ones_is_passed_over_as_saelens_does(
    tmp_path: Path,
) -> None:
    an_sae("relu").save(tmp_path)
    path = tmp_path / "sae_weights.safetensors"
    save_file(load_file(path) | {"scaling_factor": torch.ones(D_SAE)}, path)
    theirs = sae_lens.SAE.load_from_disk(tmp_path)
    assert_same(SAE.load(tmp_path), theirs.encode, theirs.decode)


def test_an_old_config_is_read_as_saelens_reads_it(tmp_path: Path) -> None:
    an_sae("topk").save(tmp_path)
    old = {"d_in": D_IN, "d_sae": D_SAE, "dtype": "float32", "hook_point": "here"}
    old |= {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}}
    files.write_json(tmp_path / "cfg.json", old)
    theirs, ours = sae_lens.SAE.load_from_disk(tmp_path), SAE.load(tmp_path)
    assert ours.metadata["hook_name"] == theirs.cfg.metadata.hook_name == "here"
    assert_same(ours, theirs.encode, theirs.decode)


@pytest.mark.parametrize("is_rescaled", [True, False])
@pytest.mark.parametrize("name", ["batchtopk", "matryoshka_batchtopk"])
def test_a_training_checkpoint_of_saelens_is_what_it_saves_for_inference(
    name: str, is_rescaled: bool, tmp_path: Path
) -> None:
    made, config = sae_lens.registry.get_sae_training_class(name)
    widths = {"matryoshka_widths": [16, D_SAE]} if "matryoshka" in name else {}
    theirs = shaken(
        made(
            config(
                d_in=D_IN,
                d_sae=D_SAE,
                k=K,
                rescale_acts_by_decoder_norm=is_rescaled,
                **widths,
            )
        )
    )
    theirs.topk_threshold = torch.tensor(0.3, dtype=torch.float64)
    theirs.save_model(tmp_path / "checkpoint")
    theirs.save_inference_model(tmp_path / "inference")
    inference = sae_lens.SAE.load_from_disk(tmp_path / "inference")
    ours = SAE.load(tmp_path / "checkpoint")
    assert_same(ours, inference.encode, inference.decode)
