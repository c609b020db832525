"""What a caller waits for: a future with the answer, which tells how it came about."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

Outputs = dict[str, Any]


@dataclass(slots=True)
class Stages:
    """Where a request's time went, in seconds; those of its batch are the whole batch's.

    Attributes:
        queue: Until its batch started.
        input: Putting the rows of its batch together.
        infer: The call itself.
        output: Taking the rows apart.
        rows: Of requests in the batch.
        bucket: Rows of the program that ran.
    """

    queue: float = 0.0
    input: float = 0.0
    infer: float = 0.0
    output: float = 0.0
    rows: int = 0
    bucket: int = 0

    def waited(self, queue: float) -> Stages:
        """Those of one request of the batch, which waited so long."""
        return Stages(queue, self.input, self.infer, self.output, self.rows, self.bucket)


class Reply(Future[Outputs]):
    """The future of a request.

    Attributes:
        stages: Where its time went; None until it has run.
        withdraw: Takes the request back, once nobody waits for its answer any more.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stages: Stages | None = None
        self.withdraw: Callable[[], None] | None = None

    def cancel(self) -> bool:
        """Takes the request back; False where it runs or has run."""
        if not super().cancel():
            return False
        if self.withdraw is not None:
            self.withdraw()
        return True

    async def answer(self) -> Outputs:
        """The answer, waited for in an event loop; cancelling the task takes the request back.

        Raises:
            As `result`.
        """
        if self.done():
            # It ran in the event loop: others there have their turn before its caller asks for more.
            await asyncio.sleep(0)
            return self.result()
        # As asyncio.wrap_future, which makes four times as many calls.
        loop = asyncio.get_running_loop()
        answered = loop.create_future()

        def wake() -> None:
            if not answered.done():
                answered.set_result(None)

        def told(_: Future[Outputs]) -> None:
            # A loop that has ended waits for nothing.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(wake)

        self.add_done_callback(told)
        try:
            await answered
        except asyncio.CancelledError:
            self.cancel()
            raise
        if self.cancelled():
            # By another: asyncio's exception is not that of threads.
            raise asyncio.CancelledError
        return self.result()
