"""Profiles: `load` turns a YAML file and dotted words into a frozen `Run`."""

from trilemma.config.profile import json_schema, load, parse
from trilemma.config.reading import ProfileError
from trilemma.config.run import TOY_HOOK, Member, Run

__all__ = ["TOY_HOOK", "Member", "ProfileError", "Run", "json_schema", "load", "parse"]
