"""What peers warn of and want at import is not ours to mend."""

import importlib.util
import sys
import types

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Let SAELens and dictionary_learning be imported.

    The one uses parts of TransformerLens that have moved. The other names a class of
    nnsight, which is not installed beside it and which only its harvest needs.
    """
    config.addinivalue_line("filterwarnings", "ignore::DeprecationWarning:sae_lens")
    for name in ("dictionary_learning", "simple_parsing", "torch"):
        config.addinivalue_line("filterwarnings", f"ignore::DeprecationWarning:{name}")
    if importlib.util.find_spec("nnsight") is None:
        sys.modules["nnsight"] = types.ModuleType("nnsight")
        sys.modules["nnsight"].LanguageModel = object  # type: ignore[attr-defined]  # a stand-in
