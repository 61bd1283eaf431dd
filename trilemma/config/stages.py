"""What is done with trained SAEs, and where it runs."""

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from trilemma.config.section import Section


class Evaluation(Section):
    """How rate, distortion and polysemanticity are measured on held-out rows."""

    ce_seqs: PositiveInt = Field(
        256, description="Held-out sequences for cross-entropy and KL."
    )
    rate_tokens: PositiveInt = Field(
        65_536, description="Held-out rows for the quantised rate."
    )
    rate_fvu_tolerance: PositiveFloat = Field(
        0.01, description="Relative rise of fvu that the bin width may cost."
    )
    rate_ce_tolerance: PositiveFloat = Field(
        0.01, description="Nats a token that the bin width of rate_bits_ce may cost."
    )
    rate_ce_seqs: PositiveInt = Field(
        16, description="Held-out sequences on which that width is sought."
    )
    rate_weight_bits: PositiveInt = Field(
        16, description="Bits of a decoder weight in rate_two_part."
    )
    rate_decoder_tokens: PositiveInt = Field(
        1_000_000_000,
        description="Tokens over which rate_two_part spreads the decoder.",
    )
    num_clusters: PositiveInt = Field(
        64, description="Context clusters for n_eff where no features are known."
    )
    context_tokens: PositiveInt = Field(
        16, description="Tokens up to the current one that form its context."
    )
    window_tokens: PositiveInt = Field(
        64, description="Tokens of a document in which clusters count as together."
    )
    cause_seqs: PositiveInt = Field(
        8, description="Held-out sequences on which latents are ablated and steered."
    )
    cause_latents: PositiveInt = Field(
        16, description="Latents steered; at most as many are ablated together."
    )
    planted_latents: PositiveInt = Field(
        64, description="Latents among which merges are planted, to try the measures."
    )
    dead_density: PositiveFloat = Field(
        1e-4, description="A silent latent is dead if 3/n is at most this."
    )
    probe_rows: PositiveInt | None = Field(
        4096,
        description="Held-out rows on which a few latents are to tell facts about the "
        "text; some seconds an SAE, however long the text; absent: none.",
    )
    num_resamples: PositiveInt = Field(
        1000, description="Bootstrap resamples of the documents."
    )
    batch_seqs: PositiveInt = Field(32, description="Sequences in a forward pass.")
    seed: NonNegativeInt = Field(0, description="Seed of clusters, nulls, resamples.")


class Explanation(Section):
    """How many latents are explained and with how much evidence."""

    num_latents: PositiveInt = Field(16, description="Latents sampled from each SAE.")
    num_examples: PositiveInt = Field(
        10, description="Examples shown for each group of a latent's page."
    )
    window: PositiveInt = Field(32, description="Tokens in an example.")
    max_terms: PositiveInt = Field(3, description="Terms that a predicate may join.")
    min_gain: float = Field(
        0.02, ge=0, lt=1, description="Rise of F1 that a further term must bring."
    )
    num_resamples: PositiveInt = Field(
        1000, description="Bootstrap resamples of the documents."
    )
    seed: NonNegativeInt = Field(0, description="Seed of the sample and the windows.")


class Reporting(Section):
    """The web report."""

    title: str | None = Field(None, description="Its heading; absent: the run's name.")


class Sharing(Section):
    """Where results are logged."""

    tracker: Literal["wandb", "none"] = Field("wandb", description="Who keeps the log.")
    mode: Literal["offline", "online"] = Field(
        "offline", description="Offline needs no account; sync later by `wandb sync`."
    )
    project: str = Field("trilemma", description="W&B project.")
    entity: str | None = Field(None, description="W&B team or user.")


class Compute(Section):
    """Where and how fast it runs; never part of a key."""

    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Device of the LM and the SAEs; auto takes a GPU if any."
    )
    threads: PositiveInt | None = Field(
        None, description="CPU threads of torch; absent means its own choice."
    )
    devices: PositiveInt | None = Field(
        None,
        description="Processes that share a harvest, each with a GPU of its own where "
        "there are any; absent: one for each GPU, or one.",
    )
    ranks_per_sae: PositiveInt = Field(
        1,
        description="Processes that train each SAE together, by torchrun, with a GPU "
        "of its own each where there are any; they share the rows of every batch. The "
        "last bits depend on how many there are, as they do on the threads.",
    )
    runner: Literal["local", "ray"] = Field(
        "local",
        description="ray: harvest in compute.devices workers of a Ray cluster.",
    )
    ray_address: str | None = Field(
        None, description="The cluster; absent: a temporary one on this machine."
    )
    prefetch: bool = Field(True, description="Read the next chunks while training.")
