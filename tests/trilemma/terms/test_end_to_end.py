"""The end-to-end term: its formula, what it trains, and what it leaves alone."""

from dataclasses import dataclass
from typing import Literal

import pytest
import torch
from torch import Tensor

from tests.trilemma.kinds.samples import (
    CONFIGS,
    D_IN,
    batch_of,
    disturbed,
    kind_of,
    start_of,
)
from tests.trilemma.terms.training import member
from trilemma import terms
from trilemma.config.terms import EndToEnd, Terms
from trilemma.lm import LM
from trilemma.sequences import Sequences
from trilemma.terms.end_to_end import Splice

VOCAB, SEQS, CTX, SCALE = 11, 6, 5, 0.5
Loss = Literal["kl", "ce"]
LOSSES: tuple[Loss, ...] = ("kl", "ce")


@dataclass
class TinyLM:
    """Activations are embeddings; logits depend on all positions up to one's own."""

    table: Tensor
    reads: Tensor | float = 1.0
    """How much of each dimension it sees."""
    predicts_next: bool = True

    def logits(self, tokens: Tensor) -> Tensor:
        return self.logits_replaced(tokens, "hook", self.table[tokens])

    def logits_replaced(self, tokens: Tensor, hook: str, x_hat: Tensor) -> Tensor:
        return (self.reads * x_hat).cumsum(1).tanh() @ self.table.t()

    def embedding(self) -> Tensor:
        return self.table


@pytest.fixture
def lm() -> TinyLM:
    generator = torch.Generator().manual_seed(3)
    return TinyLM(torch.randn(VOCAB, D_IN, generator=generator))


@pytest.fixture
def sequences(lm: TinyLM) -> Sequences:
    generator = torch.Generator().manual_seed(4)
    tokens = torch.randint(VOCAB, (SEQS, CTX), generator=generator)
    mask = torch.zeros(SEQS, CTX, dtype=torch.uint8)
    mask[:, 0] = 1
    mask[2, 3] = 1
    return Sequences(tokens, torch.zeros_like(tokens), mask, lm.table[tokens])


def config(loss: Loss) -> Terms:
    return Terms(end_to_end=EndToEnd(coefficient=1, loss=loss))


@pytest.mark.parametrize("shift", [0.0, -2.0])
@pytest.mark.parametrize("loss", LOSSES)
def test_value_and_gradients_equal_the_plain_formula(
    loss: Loss, shift: float, lm: TinyLM, sequences: Sequences
) -> None:
    kind, start = kind_of("relu"), disturbed(CONFIGS["relu"], kind_of("relu"))
    start["b_enc"] = start["b_enc"] + shift
    weights = {k: v.clone().requires_grad_() for k, v in start.items()}
    batch = batch_of(kind, torch.zeros(1, D_IN))._replace(sequences=sequences)
    (term,) = terms.make(config(loss), kind.forward, Splice(lm, "hook", SCALE))
    found = term.value(weights, batch, kind.forward(weights, batch))
    torch.autograd.backward(found)

    wide = {k: v.double().requires_grad_() for k, v in start.items()}
    table = lm.table.double()
    losses = []
    for tokens, _, mask, x in zip(*sequences, strict=True):
        acts = (x * SCALE - wide["b_dec"]) @ wide["W_enc"] + wide["b_enc"]
        x_hat = (acts.relu() @ wide["W_dec"] + wide["b_dec"]) / SCALE
        spliced = torch.where(mask[:, None] == 0, x_hat, x.double())
        log_q = (spliced.cumsum(0).tanh() @ table.t()).log_softmax(-1)
        log_p = (table[tokens].cumsum(0).tanh() @ table.t()).log_softmax(-1)
        for pos in range(CTX - 1):
            if mask[pos] == 0:
                kl = (log_p[pos].exp() * (log_p[pos] - log_q[pos])).sum()
                ce = -log_q[pos, tokens[pos + 1]]
                losses.append(kl if loss == "kl" else ce)
    wanted = torch.stack(losses).mean()
    torch.autograd.backward(wanted)

    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)
    for key, weight in weights.items():
        assert weight.grad is not None
        expected = wide[key].grad
        torch.testing.assert_close(
            weight.grad.double(), expected, rtol=1e-3, atol=1e-6, msg=key
        )


def test_a_perfect_reconstruction_costs_no_divergence(
    lm: TinyLM, sequences: Sequences
) -> None:
    both = torch.cat([torch.eye(D_IN), -torch.eye(D_IN)])
    weights = {"W_enc": both.t(), "b_enc": torch.zeros(len(both)), "W_dec": both}
    weights["b_dec"] = torch.zeros(D_IN)
    kind = kind_of("relu")
    batch = batch_of(kind, torch.zeros(1, D_IN))._replace(sequences=sequences)
    (term,) = terms.make(config("kl"), kind.forward, Splice(lm, "hook", SCALE))
    found = term.value(weights, batch, kind.forward(weights, batch))
    assert float(found) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("kind", ["topk", "batchtopk", "gated", "jumprelu"])
def test_it_keeps_what_the_lm_reads(
    kind: str, lm: TinyLM, sequences: Sequences
) -> None:
    # Two dimensions of eight, and too few latents for all.
    blinkered = TinyLM(lm.table, reads=torch.tensor([1.0, 1.0] + [0.0] * (D_IN - 2)))
    log_p = blinkered.logits(sequences.tokens).log_softmax(-1)
    x, is_in = sequences.x.flatten(0, 1), sequences.mask == 0
    strong = Terms(end_to_end=EndToEnd(coefficient=10))
    found = []
    for config in (strong, None):
        splice = Splice(blinkered, "hook", start_of(x).scale)
        one = member(kind, config, x, splice=splice, changes={"d_sae": 4})
        for _ in range(200):
            one.step(x, sequences)
        x_hat = one.export()(sequences.x).detach()
        spliced = torch.where(is_in[..., None], x_hat, sequences.x)
        log_q = blinkered.logits_replaced(sequences.tokens, "hook", spliced)
        divergence = (log_p.exp() * (log_p - log_q.log_softmax(-1))).sum(-1)
        # A sequence's last prediction has no token to come, and does not count.
        found.append(float(divergence[:, :-1][is_in[:, :-1]].mean()))
    assert found[0] < 0.2 * found[1]


def test_the_gradient_through_a_language_model_is_that_of_its_logits(
    tiny_lm: LM,
) -> None:
    hook = "blocks.1.hook_resid_post"
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(tiny_lm.vocab_size, (3, 16), generator=generator)
    x = tiny_lm.activations(tokens, [hook])[hook].clone()
    direction = torch.randn(x.shape, generator=generator)

    def along(length: float) -> Tensor:
        at = (x + length * direction).requires_grad_()
        logits = tiny_lm.logits_replaced(tokens, hook, at)
        value = logits.log_softmax(-1)[..., 0].mean()
        torch.autograd.backward(value)
        assert at.grad is not None
        return torch.stack([value.detach(), (at.grad * direction).sum()])

    rise = along(1e-2)[0] - along(-1e-2)[0]
    torch.testing.assert_close(along(0.0)[1], rise / 2e-2, rtol=1e-2, atol=1e-4)


def test_a_language_model_stays_frozen(tiny_lm: LM) -> None:
    hook = "blocks.1.hook_resid_post"
    tokens = torch.arange(48).view(3, 16)
    x = tiny_lm.activations(tokens, [hook])[hook].clone()
    mask = torch.zeros(3, 16, dtype=torch.uint8)
    sequences = Sequences(tokens, torch.zeros_like(tokens), mask, x)
    flat = x.flatten(0, 1)
    splice = Splice(tiny_lm, hook, 1.0)
    one = member("topk", config("ce"), flat, splice=splice)
    before = tiny_lm.logits(tokens)
    for _ in range(3):
        one.step(flat, sequences)
    assert torch.equal(tiny_lm.logits(tokens), before)
