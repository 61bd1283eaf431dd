"""Words for what is no metric: scores, columns of a latent, groups, kinds of SAEs."""

EXPLAINED = "explained"
"""Status of an explanation that says something; others say why there is none."""
F1 = "predicate_f1"
SHUFFLED_F1 = "shuffled_f1"
SCORES = {
    F1: "Harmonic mean of precision and recall of the explanation, run as a test of "
    "whether the latent fires, on documents that it was not fitted on.",
    "precision": "Share of the tokens it picks on which the latent fires.",
    "recall": "Share of the tokens on which the latent fires that it picks.",
    "auroc": "Mean of the shares of firing and of silent tokens that it gets right: "
    "the area under the curve of a yes or no; 0.5 is a coin.",
    "explained_share": "Share of the latent's activation that lies on tokens it picks.",
    "always_f1": "Control: F1 of saying that the latent fires on every token.",
    SHUFFLED_F1: "Control: F1 of another latent's explanation on this latent.",
}

SPLITS = {
    "children": "Latents of the wider SAE that descend from a live one of the "
    "narrower, on average.",
    "split_fraction": "Share of the narrower SAE's live latents with two or more.",
    "lost_fraction": "Share of them with none.",
    "new_fraction": "Share of the wider SAE's live latents that descend from none.",
}

LATENT_LABELS = {
    "density": "density",
    "num_fired": "tokens it fired on",
    "state": "state",
    "mean_act": "mean activation when firing",
    "max_act": "largest activation",
    "rate_bits": "bits a token",
    "n_eff": "n_eff, effective concepts",
    "n_eff_null": "n_eff under permuted firings",
    "partner": "latent to merge with",
    "partner_pmi": "mutual information with it (nats)",
    "partner_saved_bits": "bits that merging would save",
    "purity": "purity, share of the main label",
    "purity_null": "purity under permuted firings",
    "n_eff_top": "n_eff of its strongest fifth",
    "n_eff_top_null": "that n_eff by chance",
    "purity_top": "purity of its strongest fifth",
    "purity_top_null": "that purity by chance",
    "poly_z": "n_eff in standard deviations from chance",
    "monoscore_x": "MonoScore of activations",
    "monoscore_context": "MonoScore of contexts",
    "coherence": "coherence of contexts, firing less silent",
    "consistency_token": "share of its main kind of token",
    "consistency_token_null": "that share by chance",
    "consistency_label": "share of its main label",
    "consistency_label_null": "that share by chance",
    "consistency_document": "share of its main label of documents",
    "consistency_document_null": "that share with labels dealt anew",
    "dict_cos": "cosine with the nearest latent",
    "stability": "cosine with the nearest of another seed",
    "enc_dec_cos": "cosine of encoder and decoder",
    "activated_features": "features it answers to alone",
    "cofiring_features": "features on most of whose rows it fires",
    "steer_kl": "nats of KL that a unit of it adds",
    "steer_top1_shift": "share of top tokens that a unit of it changes",
    "participation": "participation over true features",
    "best_feature": "nearest true feature",
    "best_cosine": "cosine with it",
    "f1_gap": "1 - best F1 against a true feature",
    "mig": "information gap between true features",
    "disentanglement": "disentanglement over true features",
}

GROUP_LABELS = {
    "top": "Strongest activations",
    "stratum 1": "Strongest fifth of its firings",
    "stratum 2": "Second fifth",
    "stratum 3": "Third fifth",
    "stratum 4": "Fourth fifth",
    "stratum 5": "Weakest fifth",
    "silent": "Silent windows",
    "same_token": "Silent windows that hold its top token",
}

KIND_LABELS = {
    "relu": "ReLU",
    "gated": "Gated",
    "group": "Group",
    "tree": "Tree",
    "topk": "TopK",
    "batchtopk": "BatchTopK",
    "matryoshka": "Matryoshka",
    "jumprelu": "JumpReLU",
    "pretrained": "pretrained",
}
