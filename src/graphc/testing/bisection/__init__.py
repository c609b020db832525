"""From a wrong answer to its cause: `bisect(Case(model, inputs))`."""

from __future__ import annotations

from graphc.testing.bisection.blame import Blame, Culprit, bisect
from graphc.testing.bisection.bundle import read_bundle, write_bundle
from graphc.testing.bisection.case import Case, Setup
from graphc.testing.bisection.examine import examine
from graphc.testing.bisection.finding import Finding
from graphc.testing.bisection.runner import Runner

__all__ = ["Blame", "Case", "Culprit", "Finding", "Runner", "Setup", "bisect", "examine", "read_bundle", "write_bundle"]
