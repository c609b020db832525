"""Random models that reach every rule and every operator on every dtype, held against what they mean.

    report = fuzz_models(seconds=60, backends=("cpu", "reference"))
    assert not report.failures and not report.coverage.missed

After NNSmith (Liu et al., ASPLOS 2023): valid graphs are grown node by node under the operators' type constraints,
with inputs that keep every value finite and away from edges.
"""

from graphc.testing.fuzzing.campaign import Failure, FuzzReport, fuzz_models, replay
from graphc.testing.fuzzing.coverage import Coverage
from graphc.testing.fuzzing.models import ModelTask, RandomModel, random_model
from graphc.testing.fuzzing.trial import BACKENDS, Reached, try_model, try_task
from graphc.testing.fuzzing.wishes import Wish, chosen_wishes, every_wish, wishes_of

__all__ = [
    "BACKENDS",
    "Coverage",
    "Failure",
    "FuzzReport",
    "ModelTask",
    "RandomModel",
    "Reached",
    "Wish",
    "chosen_wishes",
    "every_wish",
    "fuzz_models",
    "random_model",
    "replay",
    "try_model",
    "try_task",
    "wishes_of",
]
