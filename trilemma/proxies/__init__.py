"""The proxy harness: which measures of polysemanticity see the merges they should."""
