"""A run: one profile as a frozen value, and the family of SAEs that it names."""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

from pydantic import (
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from trilemma.config import joint, sources, stages
from trilemma.config.pretrained import FamilyConfig, Pretrained
from trilemma.config.saes import SAEConfig, TopK
from trilemma.config.section import Section
from trilemma.config.terms import Terms
from trilemma.config.toys import Toy
from trilemma.config.training import Control, Training

TOY_HOOK = "toy"
_SAE: TypeAdapter[SAEConfig] = TypeAdapter(SAEConfig)
_SPARSITY_KEYS = ("k", "l1_coefficient", "l0_coefficient", "target_l0")
_SHORT = {
    "l1_coefficient": "l1_",
    "l0_coefficient": "l0_",
    "target_l0": "target",
    "hook": "",
    "target_hook": "to_",
}


_READ_OF_LMS = (
    "ce_seqs",
    "num_clusters",
    "context_tokens",
    "probe_rows",
    "window_tokens",
    "cause_seqs",
    "cause_latents",
    "rate_ce_tolerance",
    "rate_ce_seqs",
)
"""Settings of evaluation that have no effect on a toy."""


class Member(NamedTuple):
    """One SAE of the family."""

    name: str
    """Unique in the run, such as `topk-k32`; not part of any key."""
    hook: str
    """Whose activations it reads; of a crosscoder the joint name of its hooks."""
    target_hook: str
    """Whose it reconstructs; the same, but for a transcoder."""
    config: FamilyConfig
    is_control: bool
    """True for the frozen-random SAE that every table holds."""

    @property
    def terms(self) -> Terms | None:
        """Return what is added to its loss; None for nothing."""
        return None if isinstance(self.config, Pretrained) else self.config.terms

    @property
    def has_end_to_end(self) -> bool:
        """Return whether its training runs the LM."""
        return self.terms is not None and self.terms.end_to_end is not None


class Run(Section):
    """Everything that a run depends on; equal values give equal artifacts."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9._-]*$",
        description="Name of the run, in pages and logs.",
    )
    lm: sources.LM | None = Field(None, description="The language model under study.")
    corpus: sources.Corpus | None = Field(None, description="The text it reads.")
    toy: Toy | None = Field(
        None, description="A generator with known features, in place of lm and corpus."
    )
    harvest: sources.Harvest | None = Field(
        None, description="Which activations are read; absent for a toy."
    )
    store: sources.Store = Field(
        default=sources.Store(), description="How activations are kept on disk."
    )
    saes: tuple[FamilyConfig, ...] = Field(
        min_length=1, description="The family of SAEs."
    )
    grid: dict[str, tuple[Any, ...]] = Field(
        default={}, description="SAE keys and the values that multiply the family."
    )
    control: Control = Field(
        default=Control(), description="The frozen-random control."
    )
    training: Training = Field(
        default=Training(), description="How every SAE is trained."
    )
    evaluation: stages.Evaluation = Field(
        default=stages.Evaluation(), description="How SAEs are measured."
    )
    explanation: stages.Explanation = Field(
        default=stages.Explanation(), description="How latents are explained."
    )
    reporting: stages.Reporting = Field(
        default=stages.Reporting(), description="The web report."
    )
    sharing: stages.Sharing = Field(
        default=stages.Sharing(), description="Where results are logged."
    )
    compute: stages.Compute = Field(
        default=stages.Compute(), description="Where it runs; never part of a key."
    )

    @field_validator("grid")
    @classmethod
    def _grid_has_values(cls, grid: dict[str, tuple[Any, ...]]) -> dict[str, Any]:
        for key, values in grid.items():
            if not values:
                raise ValueError(f"{key}: found no values; name at least one")
        return grid

    @model_validator(mode="after")
    def _is_whole(self) -> "Run":
        if self.toy is not None:
            for key in ("lm", "corpus", "harvest"):
                if getattr(self, key) is not None:
                    raise ValueError(
                        f"{key}: has no effect beside toy; remove one of them"
                    )
        else:
            for key in ("lm", "corpus", "harvest"):
                if getattr(self, key) is None:
                    raise ValueError(f"{key}: missing; a run needs it, or a toy")
            if (
                isinstance(self.lm, sources.EmbeddedLM)
                and self.corpus is not None
                and not isinstance(self.corpus, sources.CachedCorpus)
                and self.corpus.ctx > self.lm.ctx
            ):
                raise ValueError(
                    f"corpus.ctx: found {self.corpus.ctx}; must not exceed lm.ctx, "
                    f"which is {self.lm.ctx}"
                )
        for where, why in self._idle():
            raise ValueError(f"{where}: has no effect {why}; remove it")
        if self.toy is not None or isinstance(self.corpus, sources.CachedCorpus):
            for member in self.family():
                if member.has_end_to_end:
                    raise ValueError(
                        f"saes: found terms.end_to_end in {member.name!r}; it needs an "
                        "lm and a corpus that it reads, no toy and no cache"
                    )
        self.family()
        return self

    def _idle(self) -> Iterator[tuple[str, str]]:
        """Yield settings that were changed although nothing would read them."""
        if self.toy is not None:
            for key in _READ_OF_LMS:
                if _is_changed(self.evaluation, key):
                    yield f"evaluation.{key}", "on a toy"
        if self.sharing.tracker == "none":
            for key in ("mode", "project", "entity"):
                if _is_changed(self.sharing, key):
                    yield f"sharing.{key}", "without a tracker"
        training = self.training
        if training.eval_every_steps is None and _is_changed(training, "eval_tokens"):
            yield "training.eval_tokens", "without training.eval_every_steps"
        if self.compute.runner != "ray" and self.compute.ray_address is not None:
            yield "compute.ray_address", "without compute.runner: ray"
        if self.harvest is not None:
            yield from self._idle_in_harvest(self.harvest)
        yield from self._idle_in_corpus(self.corpus)

    def _idle_in_corpus(
        self, corpus: sources.Corpus | None
    ) -> Iterator[tuple[str, str]]:
        is_stream = isinstance(corpus, sources.HubCorpus) and corpus.streaming
        if not is_stream and getattr(corpus, "shuffle_buffer", None) is not None:
            yield "corpus.shuffle_buffer", "without corpus.streaming"
        if isinstance(corpus, sources.FileCorpus) and corpus.kind == "text":
            for key in ("column", "label_column"):
                if _is_changed(corpus, key):
                    yield f"corpus.{key}", "on text files, which have only one"

    def _idle_in_harvest(self, harvest: sources.Harvest) -> Iterator[tuple[str, str]]:
        if isinstance(self.corpus, sources.CachedCorpus):
            for key in ("batch_seqs", "batch_memory_mib"):
                if _is_changed(harvest, key):
                    yield f"harvest.{key}", "on a cache, which no LM has to read"
        elif harvest.batch_seqs is not None and _is_changed(
            harvest, "batch_memory_mib"
        ):
            yield "harvest.batch_memory_mib", "beside harvest.batch_seqs"

    @property
    def hooks(self) -> tuple[str, ...]:
        """Return the hooks whose activations are stored."""
        return (TOY_HOOK,) if self.harvest is None else self.harvest.hooks

    def family(self) -> tuple[Member, ...]:
        """Return every SAE to train, the grid multiplied out, controls last.

        A grid key multiplies the SAEs whose kind has it, but no pretrained one; a key
        that no SAE has is an error. There is one frozen-random control for each hook
        that an SAE reconstructs.
        """
        variants = [
            (index, variant)
            for index, sae in enumerate(self.saes)
            for variant in self._multiply(sae)
        ]
        for key in self.grid:
            trained = [sae for sae in self.saes if not isinstance(sae, Pretrained)]
            if not any(key in type(sae).model_fields for sae in trained):
                raise ValueError(f"grid.{key}: no SAE of the family has this key")
        hooks = [self._hook(config, index) for index, config in variants]
        for (index, config), hook in zip(variants, hooks, strict=True):
            self._check_target(config, hook, index)
        configs = [config for _, config in variants]
        names = _names(configs)
        members = [
            Member(
                name,
                hook,
                config.target_hook or hook,
                config.model_copy(update={"hook": joint.written(hook)}),
                False,
            )
            for name, hook, config in zip(names, hooks, configs, strict=True)
        ]
        widths = [c.d_sae for c in configs if not isinstance(c, Pretrained)]
        d_sae = self.control.d_sae or max(widths, default=None)
        if d_sae is None:
            raise ValueError(
                "control.d_sae: missing; no SAE is trained whose width it could have; "
                "set it"
            )
        if self.control.k > d_sae and _is_changed(self.control, "k"):
            raise ValueError(
                f"control.k: found {self.control.k}; must not exceed its d_sae, which "
                f"is {d_sae}"
            )
        used = list(dict.fromkeys(member.target_hook for member in members))
        for hook in used:
            control = TopK(
                kind="topk",
                d_sae=d_sae,
                k=min(self.control.k, d_sae),
                hook=joint.written(hook),
                lr=self.control.lr,
                seed=self.control.seed,
                freeze_decoder=True,
            )
            suffix = f"-{_title(hook)}" if len(used) > 1 else ""
            members.append(Member(f"frozen-random{suffix}", hook, hook, control, True))
        return tuple(members)

    def other_seeds(self, member: Member) -> tuple[Member, ...]:
        """Return the SAEs of the family that differ from one by their seed alone."""

        def unseeded(other: Member) -> FamilyConfig | None:
            if isinstance(other.config, Pretrained) or other.is_control:
                return None
            return other.config.model_copy(update={"seed": 0})

        ours = unseeded(member)
        return tuple(
            other
            for other in self.family()
            if ours is not None
            and other.name != member.name
            and unseeded(other) == ours
        )

    def _multiply(self, sae: FamilyConfig) -> list[FamilyConfig]:
        if isinstance(sae, Pretrained):
            return [sae]
        keys = [key for key in self.grid if key in type(sae).model_fields]
        variants: list[FamilyConfig] = []
        for values in itertools.product(*(self.grid[key] for key in keys)):
            changes = dict(zip(keys, values, strict=True))
            try:
                variants.append(_SAE.validate_python(sae.model_dump() | changes))
            except ValidationError as error:
                first = error.errors()[0]
                message = first["msg"].removeprefix("Value error, ")
                raise ValueError(f"grid: found {changes}; {message}") from error
        return variants

    def _hook(self, config: FamilyConfig, index: int) -> str:
        if config.hook is None and len(self.hooks) == 1:
            return self.hooks[0]
        names = config.hook if isinstance(config.hook, tuple) else (config.hook,)
        for name in names:
            if name not in self.hooks:
                raise ValueError(
                    f"saes.{index}.hook: found {name!r}; name one of "
                    f"{', '.join(self.hooks)}"
                )
        assert config.hook is not None
        return joint.name(config.hook)

    def _check_target(self, config: FamilyConfig, hook: str, index: int) -> None:
        others = [each for each in self.hooks if each != hook]
        if config.target_hook is not None and config.target_hook not in others:
            advice = f"name one of {', '.join(others)}" if others else "remove it"
            raise ValueError(
                f"saes.{index}.target_hook: found {config.target_hook!r}; it must be "
                f"harvested, and another than its hook {hook!r}: {advice}"
            )


def _is_changed(section: Section, key: str) -> bool:
    """Return whether a value is not the default; a saved run holds all defaults."""
    return bool(getattr(section, key) != type(section).model_fields[key].default)


def _names(configs: list[FamilyConfig]) -> list[str]:
    """Return a name for each SAE: its kind, its sparsity, and what else varies."""
    trained = [c for c in configs if not isinstance(c, Pretrained)]
    varying = [
        key
        for key in dict.fromkeys(key for c in trained for key in type(c).model_fields)
        if key not in ("kind", *_SPARSITY_KEYS) and _varies(key, trained)
    ]
    names = []
    for config in configs:
        if isinstance(config, Pretrained):
            names.append(config.title)
            continue
        keys = [
            key
            for key in (*_SPARSITY_KEYS, *varying)
            if getattr(config, key, None) is not None
            and (key != "skip" or config.target_hook is not None)
        ]
        parts = [_part(key, getattr(config, key)) for key in keys]
        names.append("-".join([config.kind, *parts]))
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"saes: found {names.count(name)} equal SAEs named {name!r}; "
                "change the seed or the name of one, or remove it"
            )
    return names


def _varies(key: str, configs: list[SAEConfig]) -> bool:
    """Return whether a key tells SAEs apart; a key of one kind only within it."""
    having = [config for config in configs if key in type(config).model_fields]
    if len(having) < len(configs):
        kinds = dict.fromkeys(type(config) for config in having)
        groups = [[c for c in having if type(c) is kind] for kind in kinds]
    else:
        groups = [having]
    return any(len({repr(getattr(c, key)) for c in group}) > 1 for group in groups)


def _part(key: str, value: Any) -> str:
    """Return what a setting (hence `Any`) adds to a name."""
    if isinstance(value, Terms):
        return value.title
    if isinstance(value, tuple) and key == "hook":
        return _title(joint.name(value))
    return f"{_SHORT.get(key, key)}{value}"


def _title(hook: str) -> str:
    """Return a hook in a name, of which pages make folders."""
    return hook.replace(joint.SEPARATOR, "-")
