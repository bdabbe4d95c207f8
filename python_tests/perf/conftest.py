"""The harness is not installed: find it beside the tests, after everything that is."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))
