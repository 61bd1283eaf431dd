"""SAELens's own evaluation of an SAE and ours agree, and where they differ, why."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import sae_lens
import torch
from sae_lens import ActivationsStore
from sae_lens.evals import get_eval_everything_config, run_evals
from sae_lens.training.activation_scaler import ActivationScaler
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig

from trilemma import evaluation
from trilemma.config.saes import TopK
from trilemma.config.stages import Evaluation
from trilemma.config.training import Training
from trilemma.sae import SAE
from trilemma.sequences import MASK_SPECIAL, Sequences
from trilemma.start import Start
from trilemma.training import Member

pytestmark = [
    # SAELens asks for a class that TransformerLens means to give up,
    pytest.mark.filterwarnings("ignore:HookedTransformer is:DeprecationWarning"),
    # and copies tensors in a way that PyTorch warns of.
    pytest.mark.filterwarnings("ignore:To copy construct:UserWarning"),
]
D_IN, D_SAE, CTX, NUM_SEQS, VOCAB = 16, 64, 12, 40, 30
HOOK, SPECIAL = "blocks.0.hook_resid_post", 0
CONFIG = Evaluation(num_resamples=20, num_clusters=4, rate_tokens=200)


@dataclass(frozen=True)
class Hooked:
    """SAELens's kind of LM, as our evaluation asks for one."""

    model: HookedTransformer
    predicts_next: bool = True

    def logits(self, tokens: Tensor) -> Tensor:
        return self.model(tokens)

    def logits_replaced(self, tokens: Tensor, hook: str, x_hat: Tensor) -> Tensor:
        # TransformerLens calls it with the name `hook`.
        def replace(value: Tensor, hook: object) -> Tensor:
            return x_hat

        return self.model.run_with_hooks(tokens, fwd_hooks=[(hook, replace)])

    def embedding(self) -> Tensor:
        return self.model.W_E


@pytest.fixture(scope="module")
def lm() -> Hooked:
    """Return a tiny transformer whose random weights are large enough to matter."""
    config = HookedTransformerConfig(
        n_layers=2,
        d_model=D_IN,
        n_ctx=CTX + 1,
        d_head=8,
        n_heads=2,
        d_vocab=VOCAB,
        act_fn="gelu",
        initializer_range=0.4,
        seed=0,
        device="cpu",
    )
    return Hooked(HookedTransformer(config).requires_grad_(False))


@pytest.fixture(scope="module")
def tokens(lm: Hooked) -> Tensor:
    """Return text that the LM itself speaks, so that an ablation costs something."""
    generator = torch.Generator().manual_seed(1)
    found = torch.full((NUM_SEQS, 1), SPECIAL)
    for _ in range(CTX - 1):
        likely = lm.logits(found)[:, -1, 1:].softmax(-1)
        drawn = 1 + torch.multinomial(likely, 1, generator=generator)
        found = torch.cat([found, drawn], dim=1)
    found[:, -1] = SPECIAL
    return found


@pytest.fixture(scope="module")
def sae(lm: Hooked, tokens: Tensor) -> SAE:
    """Return an SAE of the hook, trained for a few steps."""
    x = activations(lm, tokens).reshape(-1, D_IN)
    member = Member(
        TopK(kind="topk", d_sae=D_SAE, k=3),
        Training(),
        start=Start(D_IN, x.mean(0), float(x.square().sum(1).mean())),
        num_steps=10,
        key="one",
        device="cpu",
    )
    for batch in x.split(48):
        member.step(batch)
    found = member.export()
    found.metadata["hook_name"] = HOOK
    return found


def activations(lm: Hooked, tokens: Tensor) -> Tensor:
    found: Tensor = lm.model.run_with_cache(tokens, names_filter=HOOK)[1][HOOK]
    return found


def theirs(
    sae: SAE, lm: Hooked, tokens: Tensor, folder: Path, *, special: list[int]
) -> dict[str, float]:
    """Return what SAELens says of the SAE, its groups laid flat."""
    sae.save(folder)
    store = ActivationsStore(
        lm.model,
        datasets.Dataset.from_dict({"tokens": tokens.tolist()}),
        streaming=False,
        hook_name=HOOK,
        hook_head_index=None,
        context_size=CTX,
        d_in=D_IN,
        n_batches_in_buffer=2,
        total_training_tokens=NUM_SEQS,
        store_batch_size_prompts=NUM_SEQS,
        train_batch_size_tokens=CTX,
        prepend_bos=False,
        normalize_activations="none",
        device=torch.device("cpu"),
        dtype="float32",
    )
    scalars, latents = run_evals(
        sae_lens.SAE.load_from_disk(folder),
        store,
        lm.model,
        ActivationScaler(),
        get_eval_everything_config(NUM_SEQS, 1, 1),
        exclude_special_tokens=special,
    )
    found: dict[str, Any] = {}
    for group in scalars.values():
        found |= group
    return found | {"density": float(np.mean(latents["feature_density"]))}


def ours(sae: SAE, lm: Hooked, tokens: Tensor, *, special: list[int]) -> dict[str, Any]:
    """Return what evaluation says of the SAE."""
    mask = torch.isin(tokens, torch.tensor(special)).to(torch.uint8) * MASK_SPECIAL
    x = activations(lm, tokens)
    document = torch.arange(len(tokens))[:, None].expand_as(tokens).contiguous()
    rows = x[mask == 0]

    def batches() -> Iterator[Sequences]:
        for part in torch.arange(len(tokens)).split(7):
            yield Sequences(tokens[part], document[part], mask[part], x[part])

    found = evaluation.evaluate(
        sae,
        CONFIG,
        baseline=evaluation.baseline(
            CONFIG,
            eval_batches=batches,
            train_rows=rows,
            mean=rows.mean(0),
            lm=lm,
            hook=HOOK,
        ),
        eval_batches=batches,
        lm=lm,
        hook=HOOK,
        control=None,
        features=None,
    )
    return {name: scalar.value for name, scalar in found.metrics.items()}


SAME = {
    "ce_loss_without_sae": "ce_clean",
    "ce_loss_with_sae": "ce_sae",
    "kl_div_with_sae": "kl",
    "l0": "l0",
    "explained_variance": "ev",
    "explained_variance_legacy": "ev_ratio_mean",
    "mse": "mse",
    "cossim": "cos",
    "relative_reconstruction_bias": "gamma",
    "density": "density",
}
"""SAELens's names of what is measured alike, and ours. Its bias of reconstruction is a
mean over batches and its legacy variance is about the mean of each batch; ours pool all
rows, so here it reads one batch."""


def test_what_is_defined_alike_agrees(
    sae: SAE, lm: Hooked, tokens: Tensor, tmp_path: Path
) -> None:
    their = theirs(sae, lm, tokens, tmp_path, special=[SPECIAL])
    our = ours(sae, lm, tokens, special=[SPECIAL])
    assert their["kl_div_with_sae"] > 0.01
    for name, name_here in SAME.items():
        assert our[name_here] == pytest.approx(their[name], rel=1e-3), name


def test_zero_ablation_agrees_where_no_token_is_left_out(
    sae: SAE, lm: Hooked, tokens: Tensor, tmp_path: Path
) -> None:
    inner = tokens.clamp(min=1)
    their = theirs(sae, lm, inner, tmp_path, special=[])
    our = ours(sae, lm, inner, special=[])
    assert our["ce_zero"] == pytest.approx(their["ce_loss_with_ablation"], rel=1e-3)
    assert our["ce_recovered_zero"] == pytest.approx(their["ce_loss_score"], rel=1e-3)


def test_a_share_of_an_ablation_that_helps_is_undefined_here_and_a_number_there(
    sae: SAE, lm: Hooked, tmp_path: Path
) -> None:
    # Of tokens drawn evenly an LM of random weights knows less than nothing.
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(1, VOCAB, (NUM_SEQS, CTX), generator=generator)
    their = theirs(sae, lm, drawn, tmp_path, special=[])
    assert their["ce_loss_with_ablation"] < their["ce_loss_without_sae"]
    assert np.isfinite(their["ce_loss_score"])
    assert ours(sae, lm, drawn, special=[])["ce_recovered_zero"] is None


def test_saelens_ablates_the_tokens_too_that_it_leaves_out_elsewhere(
    sae: SAE, lm: Hooked, tokens: Tensor, tmp_path: Path
) -> None:
    # Ours replaces in an ablation what it replaces in a splice: unmasked tokens alone.
    their = theirs(sae, lm, tokens, tmp_path, special=[SPECIAL])
    our = ours(sae, lm, tokens, special=[SPECIAL])
    assert our["ce_zero"] != pytest.approx(their["ce_loss_with_ablation"], rel=1e-3)

    def zero(value: Tensor, hook: object) -> Tensor:
        return torch.zeros_like(value)

    logits = lm.model.run_with_hooks(tokens, fwd_hooks=[(HOOK, zero)])[:, 1:-1]
    everywhere = torch.nn.functional.cross_entropy(
        logits.reshape(-1, VOCAB), tokens[:, 2:].reshape(-1)
    )
    assert their["ce_loss_with_ablation"] == pytest.approx(float(everywhere), rel=1e-3)


def test_saelens_takes_kl_after_the_last_token_too(
    sae: SAE, lm: Hooked, tokens: Tensor, tmp_path: Path
) -> None:
    # Ours takes it where there is a next token, as it does cross-entropy. With one
    # more token, masked, there is one after the last.
    inner = tokens.clamp(min=1)
    longer = torch.cat([inner, torch.full((NUM_SEQS, 1), SPECIAL)], dim=1)
    their = theirs(sae, lm, inner, tmp_path, special=[])
    without, with_it = (
        ours(sae, lm, inner, special=[]),
        ours(sae, lm, longer, special=[SPECIAL]),
    )
    assert with_it["kl"] == pytest.approx(their["kl_div_with_sae"], rel=1e-3)
    assert without["kl"] != pytest.approx(their["kl_div_with_sae"], rel=1e-3)
