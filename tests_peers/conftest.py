"""What peers warn of at import is not ours to mend."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Let SAELens import the parts of TransformerLens that have moved."""
    config.addinivalue_line("filterwarnings", "ignore::DeprecationWarning:sae_lens")
