"""Hostile and broken models: whatever the bytes, graphc compiles them or says why not, in bounded time and memory."""

from graphc.testing.hostile.campaign import Campaign, Finding, fuzz_import, isolation, mutant, signature, suite_models
from graphc.testing.hostile.minimize import minimize
from graphc.testing.hostile.mutation import damage_bytes, mutate
from graphc.testing.hostile.trial import trial

__all__ = [
    "Campaign",
    "Finding",
    "damage_bytes",
    "fuzz_import",
    "isolation",
    "minimize",
    "mutant",
    "mutate",
    "signature",
    "suite_models",
    "trial",
]
