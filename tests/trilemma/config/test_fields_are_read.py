"""A setting that nothing reads is an error of ours."""

import ast
from pathlib import Path

import pytest
from pydantic import BaseModel

from trilemma.config.run import Run
from trilemma.config.section import Section

PACKAGES = ("flows", "storage", "tasks", "trilemma")
# What these do with their fields, names for people among it, is not yet a use.
DEFINITIONS = {"saes.py", "sources.py", "stages.py", "terms.py", "training.py"}


def sections(model: type[BaseModel]) -> list[type[BaseModel]]:
    """Return every section that can be part of a profile; `Run` among them."""
    found = [model]
    for below in Section.__subclasses__():
        found += [below, *_below(below)]
    return sorted(set(found), key=lambda section: section.__name__)


def _below(section: type[BaseModel]) -> list[type[BaseModel]]:
    return [x for sub in section.__subclasses__() for x in (sub, *_below(sub))]


def names_in(node: ast.AST) -> set[str]:
    """Return every name that code reads as an attribute, or in a pattern.

    Validators compare fields with each other, which is not yet a use.
    """
    if isinstance(node, ast.FunctionDef) and any(
        "validator(" in ast.unparse(mark) for mark in node.decorator_list
    ):
        return set()
    found: set[str] = set()
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
        found.add(node.attr)
    elif isinstance(node, ast.MatchClass):
        found |= set(node.kwd_attrs)
    return found.union(*map(names_in, ast.iter_child_nodes(node)))


READ = {
    name
    for package in PACKAGES
    for path in Path(package).rglob("*.py")
    if path.parent.name != "config" or path.name not in DEFINITIONS
    for name in names_in(ast.parse(path.read_text()))
}


@pytest.mark.parametrize("section", sections(Run), ids=lambda section: section.__name__)
def test_every_field_is_read_somewhere(section: type[BaseModel]) -> None:
    unread = set(section.model_fields) - READ
    assert unread == set()


def test_a_field_that_nothing_reads_is_found() -> None:
    assert "a_setting_nobody_reads" not in READ
    assert "sparsity_warmup_fraction" in READ


def test_what_a_validator_reads_is_no_use() -> None:
    method = "def method(self):\n    return self.field"
    assert names_in(ast.parse(method)) == {"field"}
    assert names_in(ast.parse(f"@model_validator(mode='after')\n{method}")) == set()
