"""What callers get: outputs, or errors that say what happened and what to do."""

from __future__ import annotations

from collections.abc import Sequence

from graphc.errors import ExecutionError, GraphcError, QueueFullError, RefusedError
from graphc.runtime.scheduler.costs import Call
from graphc.runtime.scheduler.model import Prepared, ServedModel
from graphc.runtime.scheduler.reply import Outputs, Stages
from graphc.runtime.scheduler.work import Refusal


def answer(
    model: ServedModel, device: int, parts: Sequence[Prepared], call: Call, stages: Stages
) -> list[Outputs | BaseException]:
    """Outputs of each request, or what went wrong with it.

    Where a batch fails, its requests are run one by one: one bad index is no reason to fail the others.

    Args:
        model: Whose requests they are.
        device: That runs them.
        parts: Of one queue.
        call: That holds them all.
        stages: Told where the time goes.
    """
    try:
        return list(model.run(device, parts, call, stages))
    except Exception as error:
        if len(parts) == 1:
            return [_as_error(error)]
    found: list[Outputs | BaseException] = []
    for part in parts:
        single = part.queue.costs.single_call(part.rows)
        assert single is not None
        try:
            found += model.run(device, [part], single, stages)
        except Exception as error:
            found.append(_as_error(error))
    return found


def _as_error(error: Exception) -> BaseException:
    """What a request's future fails with: a typed error."""
    if isinstance(error, GraphcError):
        return error
    wrapped = ExecutionError(f"the model failed: {type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped


def refused(model: ServedModel, refusal: Refusal, limit: float) -> RefusedError:
    """The error of a refusal.

    Args:
        model: That was asked.
        refusal: What the policy says.
        limit: Seconds that the request had.
    """
    again = f"try again in {refusal.retry_after * 1e3:.3g} ms"
    if refusal.reason == "queue_full":
        return QueueFullError(
            f"{model.tenant.waiting} requests for {model.name} wait already",
            retry_after=refusal.retry_after,
            hint=again,
        )
    if refusal.reason == "share":
        message = f"{model.name} has had its share, and others that had less wait"
    else:
        message = f"{model.name} could not answer within {limit * 1e3:g} ms"
    return RefusedError(message, retry_after=refusal.retry_after, hint=again)
