"""Multinomial negative log-likelihood of dense counts; that of sparse ones is in test_multinomial.py."""

import dgmkern

from .case import Case, summed

CASES = [
    Case(
        "multinomial_nll",
        2,
        lambda *x: (dgmkern.multinomial_nll(*x),),
        lambda log_probs, counts: (-summed(counts * log_probs),),
        False,
        domain=lambda z: [-z[0].abs(), 3 * z[1].abs()],
        integers=(1,),
    ),
]
