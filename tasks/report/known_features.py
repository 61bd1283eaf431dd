"""What each metric means that needs known features, in words for the report."""

MEANINGS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "Known features": (
        (
            "f1_gap",
            "lower",
            "1 less the best F1 of a latent's firing as a test of a true feature, "
            "averaged over latents by their firings.",
        ),
        (
            "mig",
            "higher",
            "Mutual information gap: how much more one latent's firing tells of a "
            "true feature than any other's, in units of the feature's entropy.",
        ),
        (
            "mig_latent",
            "higher",
            "How much more a latent's firing tells of one true feature than of any "
            "other, averaged over latents by their firings.",
        ),
        (
            "disentanglement",
            "higher",
            "How few true features a latent's firing tells of (DCI, by mutual "
            "information).",
        ),
        (
            "completeness",
            "higher",
            "How few latents tell of a true feature (DCI, by mutual information).",
        ),
        (
            "mcc",
            "higher",
            "Mean absolute cosine of decoder rows and true features, each matched to "
            "one.",
        ),
        (
            "mcc_null",
            "",
            "What mcc is for random decoder rows: mean and extremes of some draws.",
        ),
        (
            "uniqueness",
            "higher",
            "True features that are nearest to some live latent, over live latents.",
        ),
        (
            "gt_recall",
            "higher",
            "Share of the true features that some live decoder row points along.",
        ),
        (
            "absorb_gt",
            "lower",
            "How often a parent's latent is silent while its child's fires, where "
            "both features are present, beyond the same for a child of another tree.",
        ),
        (
            "hedge_gt",
            "",
            "How far a feature's decoder row leans towards features tied to it: 0 is "
            "not at all.",
        ),
        (
            "co_activation",
            "higher",
            "How often the latents of two tied features both fire where both are "
            "present.",
        ),
    ),
}
