"""A published SAE in a family, beside those that are trained."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from trilemma.config import joint
from trilemma.config.saes import SAEConfig
from trilemma.config.section import Section


class Pretrained(Section):
    """A published SAE, which is not trained here: a folder, or one on the hub."""

    kind: Literal["pretrained"]
    path: str | None = Field(None, description="Folder in any format that is read.")
    id: str | None = Field(None, description="Repository on the hub, beside no path.")
    revision: str = Field(
        "main", description="Branch, tag or commit; resolved to a commit hash."
    )
    subfolder: str | None = Field(
        None, description="Folder of the SAE inside the repository."
    )
    hook: joint.Hook | None = Field(
        None,
        description="Hook that it reads, or those of a crosscoder; may be left out if "
        "there is only one.",
    )
    target_hook: str | None = Field(
        None, description="Hook that a transcoder reconstructs."
    )
    name: str | None = Field(
        None,
        pattern=r"^[a-z0-9][a-z0-9._-]*$",
        description="Its name in tables; absent means that of its folder.",
    )

    @model_validator(mode="after")
    def _has_one_place(self) -> "Pretrained":
        if (self.path is None) == (self.id is None):
            found = "neither" if self.path is None else "both"
            raise ValueError(f"path, id: found {found}; name exactly one of them")
        if self.path is not None and (self.subfolder or self.revision != "main"):
            raise ValueError(
                "subfolder, revision: have no effect beside path; remove them"
            )
        return self

    @model_validator(mode="after")
    def _joint_hook_fits(self) -> "Pretrained":
        joint.check(self.hook)
        if isinstance(self.hook, tuple) and self.target_hook is not None:
            raise ValueError(
                "target_hook: a crosscoder reconstructs the hooks that it reads; "
                "remove it, or name one hook"
            )
        return self

    @property
    def title(self) -> str:
        """Return its name, or one made of its folder's."""
        if self.name is not None:
            return self.name
        last = Path(self.path or self.subfolder or self.id or "").name.lower()
        return "pretrained-" + (re.sub(r"[^a-z0-9._-]+", "-", last) or "sae")


FamilyConfig = Annotated[SAEConfig | Pretrained, Field(discriminator="kind")]
