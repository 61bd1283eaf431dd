"""Profiles: `load` turns a YAML file and dotted words into a frozen `Run`."""

from trilemma.config.profile import ProfileError, json_schema, load, parse
from trilemma.config.run import TOY_HOOK, Member, Run

__all__ = ["TOY_HOOK", "Member", "ProfileError", "Run", "json_schema", "load", "parse"]
