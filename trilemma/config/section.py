"""The frozen, closed pydantic model that every section of a profile derives from."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """One part of a profile: immutable, and an unknown key in it is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
