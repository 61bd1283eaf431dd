"""What each metric means that needs no known features, in words for the report."""

MEANINGS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "Polysemanticity": (
        (
            "n_eff_null",
            "",
            "What n_eff would be if labels were dealt anew among tokens.",
        ),
        (
            "n_eff_geometric",
            "lower",
            "Geometric mean of n_eff over latents, weighed by what they add to "
            "reconstructions; splitting a latent never raises it.",
        ),
        (
            "purity",
            "higher",
            "Share of a latent's activation mass that lies on its main label, "
            "weighed by what latents add to reconstructions.",
        ),
        (
            "purity_null",
            "",
            "What purity would be if labels were dealt anew among tokens.",
        ),
        (
            "polysemanticity_top",
            "lower",
            "n_eff over chance in the strongest fifth of a latent's firings.",
        ),
        (
            "polysemanticity_strata",
            "lower",
            "The same in each fifth of a latent's firings, mean of the five.",
        ),
        (
            "purity_top",
            "higher",
            "Purity in the strongest fifth of a latent's firings.",
        ),
        (
            "purity_top_null",
            "",
            "That purity by chance.",
        ),
        (
            "purity_strata",
            "higher",
            "Purity in each fifth of a latent's firings, mean of the five.",
        ),
        (
            "purity_strata_null",
            "",
            "That purity by chance.",
        ),
        (
            "poly_z",
            "lower",
            "How far n_eff lies from chance, in standard deviations, for equally "
            "many firings of each latent; below 0 is less mixed.",
        ),
        (
            "monoscore_x",
            "higher",
            "Mean cosine of two activations on which a latent fires, weighed by "
            "its strength on both. It rises where a latent fires only on two "
            "concepts at once.",
        ),
        (
            "monoscore_x_excess",
            "higher",
            "The same, less the mean cosine of any two activations: what firing "
            "at random would score.",
        ),
        (
            "monoscore_context",
            "higher",
            "Mean cosine of the contexts of two tokens on which a latent fires, "
            "weighed by its strength on both.",
        ),
        (
            "monoscore_context_excess",
            "higher",
            "The same, less the mean cosine of any two contexts.",
        ),
        (
            "coherence_delta_plus",
            "higher",
            "How much more alike two contexts are on which a latent fires equally"
            " strongly than one on which it fires and one on which it does not.",
        ),
        (
            "coherence_delta_minus",
            "",
            "How much more alike a silent and a firing context are than two "
            "silent ones.",
        ),
        (
            "coherence_solved",
            "higher",
            "Share of activation deciles in which the first of these exceeds the "
            "second.",
        ),
        (
            "consistency_token",
            "higher",
            "Share of a latent's firings on its most frequent kind of token, such"
            " as a number or the start of a word.",
        ),
        (
            "consistency_token_null",
            "",
            "That share by chance.",
        ),
        (
            "consistency_label",
            "higher",
            "Share of a latent's firings in its most frequent context cluster or,"
            " for toys, strongest feature.",
        ),
        (
            "consistency_label_null",
            "",
            "That share by chance.",
        ),
        (
            "consistency_document",
            "higher",
            "Share of a latent's firings in documents of its most frequent label, of "
            "those in documents that have one.",
        ),
        (
            "consistency_document_null",
            "",
            "That share with the labels dealt anew among documents.",
        ),
        (
            "activated_features",
            "lower",
            "How many true features, each shown alone, bring a tenth or more of a"
            " latent's strongest answer.",
        ),
        (
            "cofiring_features",
            "lower",
            "On how many true features' rows a latent mostly fires.",
        ),
    ),
    "Geometry": (
        (
            "dict_cos",
            "lower",
            "Largest cosine of a decoder row with that of another live latent, mean.",
        ),
        (
            "duplicate_fraction",
            "lower",
            "Share of live latents whose decoder row nearly equals another one.",
        ),
        (
            "c_dec",
            "lower",
            "Mean absolute cosine of two live decoder rows; smallest near the "
            "right l0.",
        ),
        (
            "mutual_coherence",
            "lower",
            "Largest absolute cosine of two live decoder rows.",
        ),
        (
            "enc_dec_cos",
            "",
            "Cosine of a latent's encoder and decoder, mean over live latents.",
        ),
    ),
    "Stability": (
        (
            "stability",
            "higher",
            "Mean absolute cosine of decoder rows with those of another seed of the "
            "same SAE, matched one to one.",
        ),
        (
            "stable_fraction",
            "higher",
            "Share of these pairs with an absolute cosine above 0.7.",
        ),
        (
            "stability_null",
            "",
            "The mean with as many random directions in place of the other seed.",
        ),
    ),
    "Probes": (
        (
            "probe",
            "higher",
            "How well up to 16 latents tell facts about the text: mean area under the "
            "ROC curve on documents that the probes were not fitted on; 0.5 is a coin.",
        ),
        ("probe_k1", "higher", "The same by one latent."),
        ("probe_k2", "higher", "The same by two latents."),
        ("probe_k5", "higher", "The same by five latents."),
        ("probe_k16", "higher", "The same by sixteen latents."),
        ("probe_dense", "", "The same by all dimensions of the activation."),
        ("probe_shuffled", "", "The same by sixteen latents, of shuffled labels."),
        *(
            (
                f"probe_{task}",
                "higher",
                f"How well up to 16 latents tell whether {fact}.",
            )
            for task, fact in {
                "digits": "the token is a number",
                "capital": "the token starts in a capital",
                "in_quotes": "a quote is open",
                "in_brackets": "a bracket is open",
                "next_new_word": "a new word follows",
                "next_punctuation": "punctuation follows",
                "late": "the token is in the second half of its row",
            }.items()
        ),
    ),
}
"""For each group of metrics: name, which way is better if any, and meaning."""
