"""From a wrong answer to its cause: `bisect(Case(model, inputs))`."""

from __future__ import annotations

from graphc.testing.bisect.blame import Blame, Culprit, bisect
from graphc.testing.bisect.bundle import read_bundle, write_bundle
from graphc.testing.bisect.case import Case, Setup
from graphc.testing.bisect.examine import examine
from graphc.testing.bisect.finding import Finding
from graphc.testing.bisect.runner import Runner

__all__ = ["Blame", "Case", "Culprit", "Finding", "Runner", "Setup", "bisect", "examine", "read_bundle", "write_bundle"]
