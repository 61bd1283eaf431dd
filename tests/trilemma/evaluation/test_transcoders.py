"""Evaluation of transcoders: they read one hook, and count by what they predict."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from tests.trilemma.evaluation.samples import CTX, cut, prepare, tiny_lm
from tests.trilemma.lookup_lm import LookupLM
from trilemma import evaluation
from trilemma.config.stages import Evaluation
from trilemma.sae import SAE
from trilemma.sequences import Sequences

D_READ, D_OUT, D_SAE, NUM_SEQS = 24, 16, 32, 128
CONFIG = Evaluation(
    num_resamples=50, rate_tokens=500, num_clusters=4, ce_seqs=20, batch_seqs=16
)
GENERATOR = torch.Generator().manual_seed(4)
# What is read is a linear map of what is written, of another width.
MAP = torch.randn(D_OUT, D_READ, generator=GENERATOR) / D_OUT**0.5
W_ENC = torch.randn(D_READ, D_SAE, generator=GENERATOR)
W_DEC = torch.randn(D_SAE, D_OUT, generator=GENERATOR) / D_SAE**0.5


def written() -> Sequences:
    """Return rows of the target hook, in which most tokens repeat the one before."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 17, (NUM_SEQS, CTX), generator=generator)
    for pos in range(1, CTX):
        again = torch.rand(NUM_SEQS, generator=generator) < 0.8
        tokens[:, pos] = torch.where(again, tokens[:, pos - 1], tokens[:, pos])
    mask = torch.zeros(NUM_SEQS, CTX, dtype=torch.uint8)
    mask[:, 0] = 2
    document = torch.arange(NUM_SEQS)[:, None].expand(NUM_SEQS, CTX).contiguous()
    return Sequences(tokens, document, mask, tiny_lm().table[tokens])


def read_of(rows: Sequences) -> Sequences:
    return rows._replace(x=rows.x @ MAP)


def transcoder(W_skip: Tensor | None, W_dec: Tensor = W_DEC, k: int = 4) -> SAE:
    return SAE(
        "topk",
        W_enc=W_ENC,
        b_enc=torch.zeros(D_SAE),
        W_dec=W_dec,
        b_dec=torch.zeros(D_OUT),
        W_skip=W_skip,
        k=k,
        is_transcoder=True,
    )


def control() -> SAE:
    W = torch.randn(D_SAE, D_OUT, generator=torch.Generator().manual_seed(5))
    zeros = torch.zeros(D_SAE), torch.zeros(D_OUT)
    return SAE("topk", W_enc=W.T, b_enc=zeros[0], W_dec=W, b_dec=zeros[1], k=4)


def measure(
    sae: SAE,
    rows: Sequences,
    *,
    reads: Callable[[], Iterator[Sequences]] | None,
    lm: LookupLM | None = None,
    sizes: tuple[int, ...] = (NUM_SEQS,),
) -> evaluation.EvaluationResult:
    return evaluation.evaluate(
        sae,
        CONFIG,
        baseline=prepare(CONFIG, rows, lm),
        eval_batches=cut(rows, list(sizes)),
        read_batches=reads,
        lm=lm,
        hook="written",
        control=control(),
        features=None,
    )


def test_a_perfect_prediction_costs_the_lm_nothing_where_it_is_spliced_in() -> None:
    rows = written()
    sae = transcoder(torch.linalg.pinv(MAP), torch.zeros_like(W_DEC))
    found = measure(
        sae, rows, reads=cut(read_of(rows), [NUM_SEQS]), lm=tiny_lm()
    ).metrics
    assert found["fvu"].value == pytest.approx(0, abs=1e-9)
    assert found["kl"].value == pytest.approx(0, abs=1e-6)
    assert found["top1_agree"].value == 1
    assert found["l0"].value == 4


def test_the_distortion_is_that_of_the_target() -> None:
    rows = written()
    sae = transcoder(torch.linalg.pinv(MAP) / 2)
    found = measure(sae, rows, reads=cut(read_of(rows), [NUM_SEQS])).metrics["fvu"]
    y = rows.x[rows.mask == 0]
    with torch.no_grad():
        error = (y - sae(y @ MAP)).double().square().sum()
    fvu = float(error / (y - y.mean(0)).double().square().sum())
    assert found.value == pytest.approx(fvu, rel=1e-5)


def test_batches_leave_no_trace_in_what_is_read() -> None:
    rows, sae = written(), transcoder(torch.linalg.pinv(MAP) / 2)
    sizes = (7, 90, 31)
    whole = measure(
        sae, rows, reads=cut(read_of(rows), [NUM_SEQS]), lm=tiny_lm()
    ).metrics
    parts = measure(
        sae, rows, reads=cut(read_of(rows), list(sizes)), sizes=sizes, lm=tiny_lm()
    ).metrics
    for name in ("fvu", "kl", "ce_sae", "l0", "rate_bits", "additivity_gap"):
        assert parts[name].value == pytest.approx(whole[name].value, rel=1e-5), name


def test_controls_read_what_they_reconstruct() -> None:
    rows = written()
    other = measure(
        transcoder(None), rows, reads=cut(read_of(rows), [NUM_SEQS])
    ).controls
    own = measure(control(), rows, reads=None).controls
    assert other["frozen_random"] == own["frozen_random"]
