"""Rate, distortion and polysemanticity of sparse autoencoders: the library.

`trilemma.sae.SAE.load(folder)` opens an SAE; `trilemma.evaluation` measures it.
"""

__all__ = [
    "config",
    "corpus",
    "embedded",
    "evaluation",
    "explanation",
    "harvest",
    "lm",
    "metrics",
    "sae",
    "theory",
    "toys",
    "training",
]
