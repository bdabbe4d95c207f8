"""Every differentiable public op, once: how to call it, and what eager torch writes for it.

The contract tests (test_contract.py) run on each. One file a family; a new op adds its cases to its family's `CASES`.
"""

import importlib
import pathlib

from .case import Case, largest, outputs_and_gradients

FAMILIES = sorted(p.stem for p in pathlib.Path(__file__).parent.glob("*.py") if p.stem not in ("__init__", "case"))
CASES = [case for family in FAMILIES for case in importlib.import_module(f".{family}", __name__).CASES]

__all__ = ["CASES", "Case", "largest", "outputs_and_gradients"]
