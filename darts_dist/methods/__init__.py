"""How architectures are searched:
parts, each a pure function, and papers as rows that combine them.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Method:
    """One combination of parts, by their names; the last three matter to recurrent cells alone."""

    hypergradient: str
    relaxation: str = "softmax"
    clip_factor: str = "capped"
    virtual_words: str = "step"
    masks: str = "shared"


# DARTS, arXiv 1806.09055: first order; second order with the exact derivative; second order as
# its code takes it.
PRESETS = {
    "darts_first": Method(hypergradient="first"),
    "darts_second": Method(hypergradient="exact"),
    "darts_original": Method(
        hypergradient="finite_difference",
        clip_factor="uncapped",
        virtual_words="keep",
        masks="fresh",
    ),
}
