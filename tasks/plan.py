"""The steps of a run, with the key of each, known before anything runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from storage import artifacts
from storage.home import Home
from tasks.report import proxies
from tasks.stages import STAGES
from trilemma import corpus, embedded, pretrained
from trilemma import lm as models
from trilemma.config import Member, Run
from trilemma.config.pretrained import Pretrained
from trilemma.config.section import Section
from trilemma.config.sources import EmbeddedCorpus, EmbeddedLM, HubCorpus, HubLM
from trilemma.terms import input_weights

# A stage whose bytes change for equal inputs gets a new number here.
VERSIONS = dict.fromkeys(STAGES, 1) | {
    "corpus": 2,
    "harvest": 3,
    "training": 7,
    "evaluation": 6,
    "explanation": 2,
    "reporting": 4,
}

# Settings that cannot change a stage's bytes, and why. All others are hashed.
UNHASHED = {
    "compute": "where and how fast it runs",
    "training.checkpoint_every_steps": "a resumed training ends in the same bytes",
    "lm.processing": "it changes no file; harvest, which it changes, hashes it",
    "lm.path": "the files' hashes stand in its place",
    "lm.revision": "the commit that it resolves to stands in its place",
    "saes.path": "the files' hashes stand in its place",
    "saes.revision": "the commit that it resolves to stands in its place",
    "saes.name": "a name for people",
    "saes.terms.input_weights.path": "the file's hash stands in its place",
    "corpus.path": "the files' hashes stand in its place",
    "corpus.paths": "the files' hashes stand in its place",
    "corpus.revision": "the commit that it resolves to stands in its place",
}


# Hashed only where they are given, so that whatever lacks them keeps its key.
HASHED_IF_GIVEN = {"corpus.label_column"}


@dataclass(frozen=True)
class Step:
    """One artifact of a run: what it is made of, and the key that follows."""

    stage: str
    name: str
    section: dict[str, Any]
    parents: dict[str, "Step"]
    location: artifacts.Location

    @property
    def key(self) -> str:
        """Return the key of the artifact."""
        return self.location.key

    @property
    def folder(self) -> Path:
        """Return the local folder; what a bucket holds is there once fetched."""
        return self.location.folder

    @property
    def title(self) -> str:
        """Return `stage` or `stage name`, for people."""
        return f"{self.stage} {self.name}".strip()

    def manifest(self) -> artifacts.Manifest | None:
        """Return the manifest, or None if the artifact is not committed."""
        if self._kept:
            return self._kept[0]
        found = artifacts.read_manifest(self.location.place)
        if found is not None and self.location.home.bucket is not None:
            self._kept.append(found)
        return found

    def fetch(self) -> int:
        """Bring a bucket's committed files to the folder; return the bytes that came.

        Stores are read where they lie.
        """
        if self.location.home.bucket is None:
            return 0
        manifest = self.manifest()
        assert manifest is not None, f"{self.title} is not committed"
        return artifacts.fetch(self.location, manifest)

    def present(self) -> dict[str, artifacts.Parent | None]:
        """Return each parent's key and present digest; None if it is not committed."""
        found: dict[str, artifacts.Parent | None] = {}
        for label, parent in self.parents.items():
            manifest = parent.manifest()
            found[label] = (
                None
                if manifest is None
                else artifacts.Parent(key=parent.key, digest=manifest.digest)
            )
        return found

    def state(self) -> str:
        """Return done, stale, partial, missing, running or failed."""
        return artifacts.state_of(self.location, self.manifest(), self.present())

    @cached_property
    def _kept(self) -> list[artifacts.Manifest]:
        """Hold the manifest, once read from a bucket: there it stays as it is."""
        return []


@dataclass(frozen=True)
class Plan:
    """All steps of a run, parents first."""

    run: Run
    home: Home
    pinned: dict[str, str]
    """Commits that hub ids resolved to, by section."""
    steps: tuple[Step, ...]

    def of(self, stage: str) -> tuple[Step, ...]:
        """Return the steps of a stage; none where a toy replaces it."""
        return tuple(step for step in self.steps if step.stage == stage)

    def step(self, stage: str, name: str = "") -> Step:
        """Return the one step of that stage and name."""
        (found,) = (s for s in self.steps if (s.stage, s.name) == (stage, name))
        return found

    def member(self, name: str) -> Member:
        """Return the SAE of that name."""
        (found,) = (m for m in self.run.family() if m.name == name)
        return found


def make(run: Run, home: Home) -> Plan:
    """Return the plan of a run; resolves hub revisions and hashes local sources.

    Raises:
        ValueError: a local source is missing, or a hub cannot be reached.
    """
    return _Planner(run, home).plan()


class _Planner:
    def __init__(self, run: Run, home: Home) -> None:
        self._run = run
        self._home = home
        self._pinned: dict[str, str] = {}
        self._steps: list[Step] = []

    def plan(self) -> Plan:
        run = self._run
        sources: dict[str, Step] = {}
        if run.toy is None:
            sources["lm"] = self._add("lm", "", self._lm_section(), {})
            sources["corpus"] = self._add(
                "corpus", "", self._corpus_section(), dict(sources)
            )
        harvest = self._add("harvest", "", self._harvest_section(), dict(sources))
        measured = {"harvest": harvest} | {
            k: v for k, v in sources.items() if k == "lm"
        }
        family = run.family()
        for member in family:
            self._add(
                "training",
                member.name,
                self._training_section(member),
                measured if member.has_end_to_end else {"harvest": harvest},
            )
        titles: dict[str, str] = {}
        for step in (s for s in self._steps if s.stage == "training"):
            if step.key in titles:
                raise ValueError(
                    f"saes: {titles[step.key]!r} and {step.name!r} are one and the "
                    "same SAE; remove one"
                )
            titles[step.key] = step.name
        evaluation = self._dump("evaluation")
        labels = {}
        if run.corpus is not None and corpus.label_column(run.corpus) is not None:
            labels["corpus"] = sources["corpus"]
        for hook in dict.fromkeys(member.target_hook for member in family):
            self._add(
                "evaluation",
                f"baseline-{hook}",
                evaluation | {"hook": hook},
                measured | labels,
            )
        reported = dict(sources) | {"harvest": harvest}
        for member in family:
            name = member.name
            trained = self._find("training", name)
            control = next(
                m for m in family if m.is_control and m.hook == member.target_hook
            )
            evaluated = self._add(
                "evaluation",
                name,
                evaluation,
                measured
                | {
                    "training": trained,
                    "training/control": self._find("training", control.name),
                    "evaluation/baseline": self._find(
                        "evaluation", f"baseline-{member.target_hook}"
                    ),
                },
            )
            explained = self._add(
                "explanation",
                name,
                self._dump("explanation"),
                measured
                | {
                    "training": trained,
                    "evaluation": evaluated,
                },
            )
            reported |= {
                f"training/{name}": trained,
                f"evaluation/{name}": evaluated,
                f"explanation/{name}": explained,
            }
        for hook in dict.fromkeys(member.target_hook for member in family):
            members = [
                m
                for m in family
                if m.hook == m.target_hook == hook and not m.is_control
            ]
            if not _may_differ_in_width(members):
                continue
            reported[f"evaluation/splits-{hook}"] = self._add(
                "evaluation",
                f"splits-{hook}",
                # A list, since which SAEs are compared depends on their order.
                evaluation | {"hook": hook, "members": [m.name for m in members]},
                {
                    "harvest": harvest,
                    "evaluation/baseline": self._find("evaluation", f"baseline-{hook}"),
                }
                | {
                    f"training/{m.name}": self._find("training", m.name)
                    for m in members
                },
            )
        section: dict[str, Any] = {
            "reporting": self._dump("reporting"),
            "proxies": proxies.digest(),
            "name": run.name,
            # A list, since the order of SAEs is that of the report's tables.
            "members": [[member.name, member.hook] for member in family],
        }
        reporting = self._add("reporting", "", section, reported)
        shared = {k: v for k, v in reported.items() if k.startswith("training/")}
        self._add(
            "sharing", "", self._dump("sharing"), shared | {"reporting": reporting}
        )
        return Plan(run, self._home, self._pinned, tuple(self._steps))

    def _add(
        self, stage: str, name: str, section: dict[str, Any], parents: dict[str, Step]
    ) -> Step:
        key = artifacts.key_of(
            stage, VERSIONS[stage], section, {k: v.key for k, v in parents.items()}
        )
        location = artifacts.Location(self._home, stage, key)
        step = Step(stage, name, section, dict(parents), location)
        self._steps.append(step)
        return step

    def _find(self, stage: str, name: str) -> Step:
        return next(s for s in self._steps if (s.stage, s.name) == (stage, name))

    def _lm_section(self) -> dict[str, Any]:
        lm = self._run.lm
        if isinstance(lm, EmbeddedLM):
            return self._dump("lm") | {"text": embedded.text_digest()}
        if isinstance(lm, HubLM):
            self._pinned["lm"] = models.resolve_hub(lm.id, lm.revision)
            return self._dump("lm") | {"commit": self._pinned["lm"]}
        assert lm is not None
        return self._dump("lm") | {"files": models.folder_digest(lm.path)}

    def _corpus_section(self) -> dict[str, Any]:
        source = self._run.corpus
        if isinstance(source, EmbeddedCorpus):
            return self._dump("corpus") | {"text": embedded.text_digest()}
        if isinstance(source, HubCorpus):
            self._pinned["corpus"] = corpus.source_digest(source)
            return self._dump("corpus") | {"commit": self._pinned["corpus"]}
        assert source is not None
        return self._dump("corpus") | {"files": corpus.source_digest(source)}

    def _harvest_section(self) -> dict[str, Any]:
        source = "harvest" if self._run.toy is None else "toy"
        section: dict[str, Any] = {
            source: self._dump(source),
            "store": self._dump("store"),
        }
        if self._run.lm is not None:
            section["processing"] = self._run.lm.processing
        return section

    def _training_section(self, member: Member) -> dict[str, Any]:
        config = member.config
        if isinstance(config, Pretrained):
            source = pretrained.source(config)
            if source.commit is not None:
                self._pinned[f"saes/{member.name}"] = source.commit
            where = config.model_dump(include={"kind", "hook", "target_hook"})
            return {"sae": where | source.section}
        section = config.recorded()
        if member.terms is not None:
            digest = input_weights.file_digest(member.terms.input_weights)
            if digest is not None:
                section["terms"]["input_weights"]["sha256"] = digest
        return {"sae": section, "training": self._dump("training")}

    def _dump(self, section: str) -> dict[str, Any]:
        """Return a section's settings, without those that cannot change the bytes."""
        value = getattr(self._run, section)
        assert isinstance(value, Section)
        return {
            key: found
            for key, found in value.model_dump(mode="json").items()
            if f"{section}.{key}" not in UNHASHED
            and (found is not None or f"{section}.{key}" not in HASHED_IF_GIVEN)
        }


def _may_differ_in_width(members: Sequence[Member]) -> bool:
    """Return whether widths may differ: that of a published SAE is not known yet."""
    known = {m.config.d_sae for m in members if not isinstance(m.config, Pretrained)}
    num_unknown = sum(isinstance(m.config, Pretrained) for m in members)
    return len(known) + num_unknown > 1
