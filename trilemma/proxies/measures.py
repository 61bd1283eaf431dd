"""The measures of polysemanticity that the harness tries, each a number for an SAE."""

from collections.abc import Callable
from typing import NamedTuple

from trilemma.metrics.geometry import Geometry
from trilemma.metrics.intervals import Interval
from trilemma.metrics.recovery import Recovery
from trilemma.metrics.strata import Means
from trilemma.proxies import values
from trilemma.proxies.values import Value


class Measure(NamedTuple):
    """A measure as the harness knows it."""

    name: str
    value: Value
    sign: int
    """1 where more is more polysemantic, -1 where less is."""
    needs_concepts: bool = False
    """Whether it reads the truth, and so cannot be had where that is unknown."""
    chance: float | None = None
    """What it claims to be for latents that know nothing; None: it claims nothing."""
    is_sampled: bool = False
    """Whether it rests on a sample of firings, which few rows do not fill."""


def _of_concepts(
    name: str, value: Value, sign: int, chance: float | None = None
) -> Measure:
    return Measure(name, value, sign, needs_concepts=True, chance=chance)


def _of_recovery(name: str, pick: Callable[[Recovery], float]) -> Measure:
    return _of_concepts(name, values.of_recovery(pick), -1)


def _of_strata(
    name: str, sign: int, pick: Callable[[Means], Interval], chance: float | None = None
) -> Measure:
    return Measure(name, values.of_strata(pick), sign, chance=chance, is_sampled=True)


def _of_geometry(name: str, pick: Callable[[Geometry], float | None]) -> Measure:
    return Measure(name, values.of_geometry(pick), 1)


MEASURES = (
    _of_concepts("participation", values.participation, 1),
    _of_concepts("f1_gap", values.known_features("f1_gap"), 1),
    _of_concepts("mig", values.known_features("mig"), -1, chance=0),
    _of_concepts("mig_latent", values.known_features("mig_latent"), -1, chance=0),
    _of_concepts(
        "disentanglement", values.known_features("disentanglement"), -1, chance=0
    ),
    _of_concepts("completeness", values.known_features("completeness"), -1, chance=0),
    _of_concepts("cofiring_features", values.cofiring_features, 1, chance=0),
    _of_concepts("co_activation", values.co_activation, -1),
    _of_concepts("hedge_gt", values.hedging, 1, chance=0),
    _of_concepts("mmcs", values.mmcs, -1),
    _of_recovery("mcc", lambda found: found.mcc),
    _of_recovery("uniqueness", lambda found: found.uniqueness),
    _of_recovery("gt_recall", lambda found: found.gt_recall),
    Measure("n_eff", values.of_sharing(lambda found: found.mean_n_eff), 1),
    Measure(
        "n_eff/null", values.of_sharing(lambda found: found.mean_ratio), 1, chance=1
    ),
    Measure(
        "n_eff_geometric", values.of_sharing(lambda found: found.geometric_n_eff), 1
    ),
    _of_strata("polysemanticity_top", 1, lambda found: found.ratio_top, chance=1),
    _of_strata("polysemanticity_strata", 1, lambda found: found.ratio, chance=1),
    _of_strata("poly_z", 1, lambda found: found.poly_z, chance=0),
    Measure("purity", values.of_sharing(lambda found: found.mean_purity), -1),
    Measure("purity/null", values.purity_ratio, -1, chance=1),
    _of_strata("purity_top", -1, lambda found: found.purity_top),
    _of_strata("purity_strata", -1, lambda found: found.purity),
    Measure("monoscore", values.monoscore, -1),
    Measure("monoscore_excess", values.monoscore_excess, -1, chance=0),
    Measure(
        "coherence_delta_plus",
        values.of_coherence(lambda found: found.delta_plus),
        -1,
        chance=0,
        is_sampled=True,
    ),
    Measure(
        "coherence_solved",
        values.of_coherence(lambda found: found.solved),
        -1,
        is_sampled=True,
    ),
    Measure("consistency", values.of_consistency(lambda found: found.share), -1),
    Measure(
        "consistency/null",
        values.of_consistency(lambda found: found.share / found.null),
        -1,
        chance=1,
    ),
    _of_geometry("dict_cos", lambda found: found.mean_dict_cos),
    _of_geometry("c_dec", lambda found: found.c_dec),
    _of_geometry("mutual_coherence", lambda found: found.mutual_coherence),
    _of_geometry("duplicate_fraction", lambda found: found.duplicate_fraction),
    Measure("mergeable_fraction", values.of_merging("mergeable_fraction"), -1),
    Measure("merging_saved_bits", values.of_merging("merging_saved_bits"), -1),
    Measure("l0", values.l0, 1),
)
"""Named as evaluation names its metrics, less what they compare rows by; a / or
participation begins the method of the headline that it is."""
