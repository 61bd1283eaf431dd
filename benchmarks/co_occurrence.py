"""Sweep how often concepts occur together: oracle and trained SAEs beside the theory.

    python -m benchmarks.co_occurrence            # all tables, some minutes
    python -m benchmarks.co_occurrence --oracle   # exact sums alone, a minute

Concepts come in pairs with P(j given i) from 0 to 0.9. Oracles are measured on every
set of concepts, weighed by its probability, so only rounding separates them from
theory. SAEs are trained by this project's own trainer on rows of the same distribution,
without a decoder bias, since the theory has none; of a few seeds the one of least error
is taken, since some end in local minima.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn import functional

from trilemma import toys
from trilemma.config.saes import TopK
from trilemma.config.toys import Toy
from trilemma.config.training import Training
from trilemma.metrics.coders import Coder
from trilemma.start import Start
from trilemma.theory import distortion_tax, rate_tax
from trilemma.theory.small_dictionaries import small_dictionary
from trilemma.theory.supports import Supports, independent, pair
from trilemma.theory.two_latents import two_latents
from trilemma.toys import oracle
from trilemma.training import Member

CO_OCCURRENCES = tuple(round(0.1 * tenth, 1) for tenth in range(10))
BUDGETS = (1, 2, 3)
SEEDS = 6
_STEPS, _BATCH = 600, 256
_TWO_DENSITY = 0.3
"""Marginal of each of two concepts."""
_ON = 0.8
"""How often one of several pairs is present, where only one may be."""
_MOST_SETS = 1024
"""Sets up to which a dictionary has a latent for each."""
_ROWS = 4096


class Point(NamedTuple):
    """One number of one SAE, and what theory says of it."""

    co_occurrence: float
    rule: str
    measured: float
    theory: float


class Responses(NamedTuple):
    """What an SAE makes of each set of concepts."""

    l0: Float64[np.ndarray, " support"]
    distortion: Float64[np.ndarray, " support"]


def directions(num_concepts: int) -> Float[Tensor, "concept d_in"]:
    """Return orthonormal features in a few dimensions more, in double precision."""
    toy = Toy(num_features=num_concepts, d_in=num_concepts + 6)
    orthogonal: Tensor = torch.linalg.qr(toys.features(toy).double().t()).Q
    return orthogonal.t().contiguous()


@torch.inference_mode()
def responses(
    coder: Coder, supports: Supports, V: Float[Tensor, "concept d_in"]
) -> Responses:
    """Return the latents that each set fires and the squared error it is left with."""
    l0, distortion = [], []
    for present in torch.from_numpy(supports.present).split(_ROWS):
        x = present.to(V) @ V
        acts = coder.encode(x)
        l0.append((acts != 0).sum(1).double())
        distortion.append((x - coder.decode(acts)).double().square().sum(1))
    return Responses(torch.cat(l0).numpy(), torch.cat(distortion).numpy())


def in_pairs(num_pairs: int, density: float, together: float) -> Supports:
    """Return concepts of one marginal in independent pairs."""
    return independent([pair(density, density, together * density)] * num_pairs)


def one_pair_at_a_time(num_pairs: int, together: float) -> Supports:
    """Return pairs that exclude each other, so that a budget of one can serve them."""
    alone, both = (1 - together) / (2 - together), together / (2 - together)
    table: dict[tuple[int, ...], float] = {(): 1 - _ON}
    for i in range(0, 2 * num_pairs, 2):
        table |= {(i,): alone, (i + 1,): alone, (i, i + 1): both}
    return Supports.of(
        {s: p if s == () else p * _ON / num_pairs for s, p in table.items()},
        num_concepts=2 * num_pairs,
    )


def oracle_points(
    name: str, co_occurrences: Sequence[float] = CO_OCCURRENCES
) -> Iterator[Point]:
    """Yield what oracles measure on one of `ORACLES`, and what theory says of it."""
    distribution = ORACLES[name]
    # Codes do not depend on probabilities: any co-occurrence that has all sets does.
    codes = _Codes.of(distribution(0.5))
    for together in co_occurrences:
        supports = _aligned(distribution(together), codes.supports)
        for rule, measured, theory in _compared(codes, supports):
            yield Point(together, f"{name}: {rule}", measured, theory)


class _Codes(NamedTuple):
    """What each oracle makes of each set, whatever its probability."""

    V: Float[Tensor, "concept d_in"]
    supports: Supports
    pairs: list[tuple[int, int]]
    chain: list[tuple[int, int]]
    """Pairs that overlap."""
    mono: Responses
    merged: Responses
    """The pairs merged conjunctively."""
    overlapping: Responses
    """The chain merged conjunctively."""
    half: Responses
    """Latents for the first half of the concepts alone."""
    at_budget: dict[int, Responses]
    free: Responses | None
    """A latent for each set; None where there are too many."""

    @classmethod
    def of(cls, supports: Supports) -> "_Codes":
        num = supports.num_concepts
        V = directions(num)
        concepts = oracle.Monosemantic(V, torch.zeros_like(V[0]), threshold=0.5)
        pairs = [(i, i + 1) for i in range(0, num, 2)]
        chain = [(i, i + 1) for i in range(min(num, 4) - 1)]
        sets = [tuple(np.flatnonzero(row).tolist()) for row in supports.present]

        def respond(coder: Coder) -> Responses:
            return responses(coder, supports, V)

        return cls(
            V=V,
            supports=supports,
            pairs=pairs,
            chain=chain,
            mono=respond(concepts),
            merged=respond(oracle.merged(concepts, pairs, 1.0, "conjunctive")),
            overlapping=respond(oracle.merged(concepts, chain, 1.0, "conjunctive")),
            half=respond(oracle.Disjunctive(concepts, oracle.singles(range(num // 2)))),
            at_budget={k: respond(oracle.Budgeted(concepts, k)) for k in BUDGETS},
            free=respond(oracle.Conjunctive(concepts, tuple(filter(None, sets))))
            if len(sets) <= _MOST_SETS
            else None,
        )


def _compared(codes: _Codes, supports: Supports) -> Iterator[tuple[str, float, float]]:
    """Yield a rule's name, what oracles measure of it, and what it says."""
    mean, mono, half = supports.mean, codes.mono, codes.half
    tax = rate_tax.rate_tax(supports)
    yield "R1 mono l0", mean(mono.l0), tax.monosemantic
    if codes.free is not None:
        yield "R1 free l0", mean(codes.free.l0), tax.polysemantic
        yield "R1 free D", mean(codes.free.distortion), 0.0
    saved = mean(mono.l0 - codes.merged.l0)
    yield "R2 saving", saved, rate_tax.merging_saving(supports, codes.pairs)
    yield "R2 D", mean(codes.merged.distortion), 0.0
    saved = mean(mono.l0 - codes.overlapping.l0)
    theory = rate_tax.merging_saving(supports, codes.chain)
    yield "R2 saving of overlapping pairs", saved, theory
    for k, code in codes.at_budget.items():
        theory = distortion_tax.at_budget(supports, k)
        yield f"R3 mono D, K={k}", mean(code.distortion), theory
    theory = distortion_tax.monosemantic(supports, mean(half.l0))
    yield "R4 mono D", mean(half.distortion), theory
    if codes.free is not None:
        # The free code serves the largest sets and leaves the others silent.
        served = supports.sizes > 1
        lost = mean(np.where(served, codes.free.distortion, supports.sizes))
        theory = distortion_tax.polysemantic(supports, mean(codes.free.l0 * served))
        yield "R4 free D", lost, theory
    num_kept = supports.num_concepts // 2
    nothing = torch.zeros_like(codes.V[0])
    mean_row = torch.tensor(supports.marginals) @ codes.V
    for words, bias in (("R5 free D", nothing), ("R5 free D with a bias", mean_row)):
        small = small_dictionary(supports, num_kept, bias=bias is mean_row)
        linear = oracle.Linear(torch.tensor(small.directions.copy()) @ codes.V, bias)
        lost = mean(responses(linear, supports, codes.V).distortion)
        yield words, lost, small.polysemantic
    theory = small_dictionary(supports, num_kept, bias=False).monosemantic
    yield "R5 mono D", mean(half.distortion), theory
    if codes.pairs == codes.chain:
        yield _two_latents(codes.V, supports)


def trained_two(
    co_occurrences: Sequence[float] = CO_OCCURRENCES, seeds: int = SEEDS
) -> Iterator[Point]:
    """Yield what SAEs of two and three latents come to on two concepts: R6 and R1."""
    for together in co_occurrences:
        supports = in_pairs(1, _TWO_DENSITY, together)
        first, second, both = _two_probabilities(supports)
        best = two_latents(only_first=first, only_second=second, both=both)
        two = _trained(supports, d_sae=2, seeds=seeds)
        yield Point(together, "R6 D, 2 latents", two.distortion, best.polysemantic)
        gap = best.monosemantic - two.distortion
        yield Point(together, "R6 gap to mono", gap, best.tax)
        three = _trained(supports, d_sae=3, seeds=seeds)
        yield Point(together, "R1 D, 3 latents", three.distortion, 0.0)
        tax = rate_tax.rate_tax(supports)
        yield Point(together, "R1 gap to mono", tax.monosemantic - three.l0, tax.tax)


def trained_pairs(
    co_occurrences: Sequence[float] = CO_OCCURRENCES, seeds: int = SEEDS
) -> Iterator[Point]:
    """Yield what SAEs of six latents come to on two pairs, one at a time: R2."""
    for together in co_occurrences:
        supports = one_pair_at_a_time(2, together)
        found = _trained(supports, d_sae=6, seeds=seeds)
        yield Point(together, "R2 D, 6 latents", found.distortion, 0.0)
        saved = float(supports.marginals.sum()) - found.l0
        theory = rate_tax.merging_saving(supports, [(0, 1), (2, 3)])
        yield Point(together, "R2 saving", saved, theory)


ORACLES: dict[str, Callable[[float], Supports]] = {
    "two concepts": lambda together: in_pairs(1, _TWO_DENSITY, together),
    "sixteen in pairs": lambda together: in_pairs(8, 0.08, together),
    "sixteen, one pair at a time": lambda together: one_pair_at_a_time(8, together),
}
"""Distributions of concepts by their co-occurrence."""


class _Outcome(NamedTuple):
    l0: float
    distortion: float


def _trained(supports: Supports, *, d_sae: int, seeds: int) -> _Outcome:
    """Return the SAE of least error, of several seeds, and then of fewest latents."""
    V = directions(supports.num_concepts).float()
    generator = np.random.default_rng(0)
    drawn = generator.choice(
        len(supports.probability), _STEPS * _BATCH, p=supports.probability
    )
    x = torch.from_numpy(supports.present[drawn]).float() @ V
    start = Start(x.shape[1], x.mean(0), float(x.double().square().sum(1).mean()))
    tried = []
    for seed in range(seeds):
        config = TopK(
            kind="topk",
            d_sae=d_sae,
            k=1,
            lr=7e-3,
            seed=seed,
            decoder_bias=False,
            resample_every_steps=20,
            resample_until_fraction=0.7,
        )
        shared = Training(batch_tokens=_BATCH, dead_after_tokens=4 * _BATCH)
        member = Member(
            config, shared, start=start, num_steps=_STEPS, key="sweep", device="cpu"
        )
        for batch in x.split(_BATCH):
            member.step(batch)
        found = responses(member.export(), supports, V)
        tried.append(_Outcome(supports.mean(found.l0), supports.mean(found.distortion)))
    return min(tried, key=lambda each: (round(each.distortion, 3), each.l0))


def _two_latents(
    V: Float[Tensor, "concept d_in"], supports: Supports
) -> tuple[str, float, float]:
    """Return what one pure and one mixed latent lose, of which one may fire."""
    only_first, only_second, both = _two_probabilities(supports)
    best = two_latents(only_first=only_first, only_second=only_second, both=both)
    weights = torch.tensor([[0.0, 1.0], [best.pure_weight, 1 - best.pure_weight]])
    W_dec = functional.normalize(weights.to(V) @ V, dim=1)
    coder = oracle.Budgeted(oracle.Linear(W_dec, torch.zeros_like(V[0])), k=1)
    lost = supports.mean(responses(coder, supports, V).distortion)
    return "R6 free D", lost, best.polysemantic


def _two_probabilities(supports: Supports) -> list[float]:
    """Return how often only the first, only the second, or both are present."""
    rows = [[True, False], [False, True], [True, True]]
    return [supports.mean((supports.present == row).all(1) * 1.0) for row in rows]


def _aligned(found: Supports, every: Supports) -> Supports:
    """Return a distribution with the sets of another, in its order."""
    weights = 1 << np.arange(every.num_concepts)
    probability = np.zeros(len(every.probability))
    order = np.argsort(every.present @ weights)
    place = np.searchsorted((every.present @ weights)[order], found.present @ weights)
    probability[order[place]] = found.probability
    return Supports(every.present, probability)


def _print(points: Iterator[Point]) -> None:
    table: dict[str, list[Point]] = {}
    for point in points:
        table.setdefault(point.rule, []).append(point)
    for name, row in table.items():
        print(f"\n{name}")
        for words, values in (
            ("P(j|i)", [p.co_occurrence for p in row]),
            ("measured", [p.measured for p in row]),
            ("theory", [p.theory for p in row]),
        ):
            print(f"  {words:9}" + "".join(f"{value:9.4f}" for value in values))
        worst = max(abs(p.measured - p.theory) for p in row)
        print(f"  largest difference {worst:.1e}")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--oracle", action="store_true", help="no trained SAEs")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for name in ORACLES:
        _print(oracle_points(name))
    if not asked.oracle:
        _print(trained_two())
        _print(trained_pairs())


if __name__ == "__main__":
    main()
