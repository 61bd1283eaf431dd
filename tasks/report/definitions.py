"""What each metric means, in words for the report."""

from typing import NamedTuple

from tasks.report import known_features, unlabelled
from trilemma.metrics.crosscoding import FVU_PREFIX


class Definition(NamedTuple):
    """One metric, as the report explains it."""

    name: str
    group: str
    better: str
    """`lower`, `higher`, or empty where neither is."""
    meaning: str


HEADLINES = (
    "rate_bits",
    "fvu",
    "polysemanticity",
    "delta_ce",
    "l0",
    "alive_fraction",
    "mmcs",
)
"""Metrics of the family table, in its order; the rest stand in the full table."""

METRICS = (
    Definition(
        "rate_bits",
        "Rate",
        "lower",
        "Entropy of the quantised code, summed over latents: zero is a symbol of its "
        "own, and one bin width serves all latents, the widest that raises fvu by no "
        "more than the tolerance.",
    ),
    Definition(
        "rate_bits_miller_madow",
        "Rate",
        "lower",
        "rate_bits with the Miller-Madow correction for symbols that a finite sample "
        "has not seen.",
    ),
    Definition(
        "rate_bits_per_latent",
        "Rate",
        "lower",
        "As rate_bits, but each latent has a bin width of its own, allocated greedily "
        "at the same distortion.",
    ),
    Definition(
        "rate_bits_ce",
        "Rate",
        "lower",
        "As rate_bits, but the bin width is the widest that the LM's cross-entropy "
        "allows when the quantised code is spliced in.",
    ),
    Definition(
        "rate_bits_tree",
        "Rate",
        "lower",
        "As rate_bits, but a latent is coded only on tokens where its parent, or its "
        "group, is on.",
    ),
    Definition(
        "rate_two_part",
        "Rate",
        "lower",
        "rate_bits and the decoder, whose cost is spread over the tokens that it "
        "serves.",
    ),
    Definition(
        "rate_l0_bits",
        "Rate",
        "lower",
        "Bound without entropies: an index and a value for each latent that fires.",
    ),
    Definition(
        "rate_support",
        "Rate",
        "lower",
        "Bound without entropies: which latents fire, as a set, and a byte for each.",
    ),
    Definition("l0", "Rate", "lower", "Mean number of latents that fire on a token."),
    *(
        Definition(
            f"l0_p{percent}",
            "Rate",
            "",
            f"{percent} % of the tokens fire no more latents than this.",
        )
        for percent in (5, 50, 95)
    ),
    Definition("density", "Rate", "", "Mean share of tokens on which a latent fires."),
    *(
        Definition(
            f"density_p{percent}",
            "Rate",
            "",
            f"{percent} % of the live latents have no more density than this.",
        )
        for percent in (5, 50, 95)
    ),
    *(
        definition
        for percent in (1, 10)
        for definition in (
            Definition(
                f"dense_{percent}pct_fraction",
                "Rate",
                "",
                f"Share of latents that fire on more than {percent} % of the tokens.",
            ),
            Definition(
                f"dense_{percent}pct_firing_fraction",
                "Rate",
                "",
                f"Share of all firings that are of latents denser than {percent} %.",
            ),
        )
    ),
    Definition(
        "gini",
        "Rate",
        "",
        "Gini index of a token's activations, silent latents among them: 0 where all "
        "are equal, nearly 1 where a few hold everything.",
    ),
    Definition(
        "hoyer",
        "Rate",
        "",
        "Hoyer's sparsity of a token's activations, from their L1 and L2 norms: 0 "
        "where all are equal, 1 where one latent fires.",
    ),
    Definition(
        "pq_mean",
        "Rate",
        "",
        "Minus the ratio of two power means of a token's activations: -1 where all are "
        "equal, nearly 0 where a few hold everything.",
    ),
    Definition(
        "merging_saved_bits",
        "Rate",
        "",
        "Bits that latents of their own would save for pairs that fire together, each "
        "latent in one pair at most.",
    ),
    Definition(
        "mergeable_fraction",
        "Rate",
        "",
        "Share of latents with a partner for which a latent for both would save bits.",
    ),
    Definition(
        "fvu",
        "Distortion",
        "lower",
        "Fraction of variance unexplained: squared error over the total squared "
        "distance from the mean activation.",
    ),
    Definition("ev", "Distortion", "higher", "Explained variance: 1 - fvu."),
    Definition(
        "ev_uncentred",
        "Distortion",
        "higher",
        "1 less the squared error over the squared norm: the mean activation as "
        "prediction scores well here. For comparison with tools that report it.",
    ),
    Definition(
        "ev_ratio_mean",
        "Distortion",
        "higher",
        "Explained variance token by token, then the mean: a few huge activations "
        "count no more than others. For comparison with tools that report it.",
    ),
    Definition(
        "ev_dl",
        "Distortion",
        "higher",
        "Explained variance of which a constant error takes nothing away. For "
        "comparison with tools that report it.",
    ),
    Definition(
        "mse", "Distortion", "lower", "Mean over tokens of the squared error's sum."
    ),
    Definition("mse_per_dim", "Distortion", "lower", "The same over dimensions too."),
    Definition(
        "gamma",
        "Distortion",
        "",
        "Shrinkage: the factor by which the reconstruction is too short, 1 where it "
        "is not.",
    ),
    Definition(
        "cos",
        "Distortion",
        "higher",
        "Mean cosine between an activation and its reconstruction.",
    ),
    Definition(
        "delta_ce",
        "Fidelity",
        "lower",
        "Rise of the LM's cross-entropy when the reconstruction takes the place of "
        "the activation.",
    ),
    Definition("delta_ce_bits", "Fidelity", "lower", "delta_ce in bits."),
    Definition("ce_clean", "Fidelity", "", "Cross-entropy of the untouched LM."),
    Definition(
        "ce_sae", "Fidelity", "lower", "Cross-entropy with the reconstruction in place."
    ),
    Definition(
        "ce_zero", "Fidelity", "", "Cross-entropy with zeros in place of activations."
    ),
    Definition(
        "ce_mean",
        "Fidelity",
        "",
        "Cross-entropy with the mean activation in place of activations.",
    ),
    Definition(
        "ce_resample",
        "Fidelity",
        "",
        "Cross-entropy with activations of training tokens, drawn at random, in place "
        "of activations.",
    ),
    Definition(
        "ce_recovered_zero",
        "Fidelity",
        "higher",
        "Share of the cross-entropy lost by zero-ablation that the SAE wins back.",
    ),
    Definition(
        "ce_recovered_mean",
        "Fidelity",
        "higher",
        "Share of the cross-entropy lost by mean-ablation that the SAE wins back.",
    ),
    Definition(
        "ce_recovered_resample",
        "Fidelity",
        "higher",
        "Share of the cross-entropy lost by resample-ablation that the SAE wins back.",
    ),
    Definition(
        "kl",
        "Fidelity",
        "lower",
        "Mean Kullback-Leibler divergence of the spliced LM's next-token "
        "distribution from the clean one's.",
    ),
    Definition(
        "kl_noise",
        "Fidelity",
        "",
        "The same divergence for activations plus an error as long as the SAE's, in a "
        "random direction.",
    ),
    Definition(
        "kl_noise_ratio",
        "Fidelity",
        "lower",
        "kl over kl_noise: above 1, the SAE's error hurts the LM more than a random "
        "one of equal norm.",
    ),
    Definition(
        "top1_agree",
        "Fidelity",
        "higher",
        "Share of tokens on which both predict the same next token.",
    ),
    Definition(
        "polysemanticity",
        "Polysemanticity",
        "lower",
        "How many concepts share a latent, averaged over latents by their firings. "
        "Its method says which measure: over known features, the participation of "
        "each decoder row; else n_eff over its value under permuted firings, where "
        "1 is as mixed as chance.",
    ),
    Definition(
        "n_eff",
        "Polysemanticity",
        "lower",
        "Effective number of concepts in a latent's activation mass: the exponential "
        "of its entropy.",
    ),
    Definition(
        "co_occurrence",
        "Polysemanticity",
        "",
        "Do context clusters that occur together in the text share latents? Spearman's "
        "correlation over pairs of clusters: how much more often than chance both are "
        "in one stretch of a document, against how much more often than chance one "
        "latent holds both.",
    ),
    Definition(
        "co_occurrence_partial",
        "Polysemanticity",
        "",
        "The same beyond what being side by side explains: contexts of neighbouring "
        "tokens overlap, so that latents share them anyway.",
    ),
    Definition(
        "co_occurrence_p",
        "Polysemanticity",
        "",
        "How likely chance alone correlates as much.",
    ),
    Definition(
        "additivity_gap",
        "Cause",
        "lower",
        "How far taking latents out together differs from the sum of taking each out "
        "alone, in the LM's logits; 0 if effects add up.",
    ),
    Definition(
        "steer_kl",
        "Cause",
        "",
        "How much adding one latent's direction at its usual strength changes the LM's "
        "predictions, mean over sampled latents.",
    ),
    Definition(
        "steer_kl_random",
        "Cause",
        "",
        "Control: the same for a random direction of equal length.",
    ),
    Definition(
        "steer_top1_shift",
        "Cause",
        "",
        "Share of most likely tokens that it changes.",
    ),
    Definition(
        "mmcs",
        "Polysemanticity",
        "higher",
        "Mean over true features of the best absolute cosine with a decoder row.",
    ),
    *(
        Definition(name, group, better, meaning)
        for group, rows in (known_features.MEANINGS | unlabelled.MEANINGS).items()
        for name, better, meaning in rows
    ),
    Definition("alive_fraction", "Liveness", "higher", "Share of latents that fired."),
    Definition(
        "dead_fraction",
        "Liveness",
        "lower",
        "Share of latents that never fired, where the sample is large enough to say "
        "so (rule of three).",
    ),
    Definition(
        "undetermined_fraction",
        "Liveness",
        "",
        "Share of latents that never fired in a sample too small to call them dead.",
    ),
)


def definition(name: str) -> Definition:
    """Return what a metric means; one not listed here has no explanation."""
    if name.startswith(FVU_PREFIX):
        hook = name.removeprefix(FVU_PREFIX)
        return Definition(
            name,
            "Distortion",
            "lower",
            f"fvu of what a crosscoder reconstructs at {hook} alone.",
        )
    for known in METRICS:
        if known.name == name:
            return known
    return Definition(name, "Other", "", "")
