"""Steps that decide which steps run: branches and loops that the launcher walks without Python.

Their bodies are lists of steps of the variant (`Variant.bodies`), named by number. What a loop carries, scans and
collects lies elsewhere in each iteration: its body names such places as locations of kind `slot`, pointers that the
loop sets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphc.errors import PackageError
from graphc.package.tensor import HostTensor, Location, check_not_negative


@dataclass(frozen=True)
class CopyStep:
    """`nbytes` bytes from one place to another, of which no byte is in both; only bodies have such steps."""

    TAG: ClassVar[str] = "copy"
    source: Location
    target: Location
    nbytes: int
    label: str = "copy"
    origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_not_negative("size of a copy", self.nbytes)


@dataclass(frozen=True)
class RaiseStep:
    """A branch that fits no shape of the variant: an error if it is taken."""

    TAG: ClassVar[str] = "raise"
    message: str
    label: str = "raise"
    origins: tuple[str, ...] = ()


@dataclass(frozen=True)
class BranchStep:
    """Runs one of two bodies.

    Attributes:
        condition: A boolean.
        taken: Number of the body that runs where it is true.
        otherwise: Number of the body that runs where it is false.
        outputs: What either of them makes.
        label: For profiles.
        origins: The ONNX nodes it came from.
    """

    TAG: ClassVar[str] = "branch"
    condition: Location
    taken: int
    otherwise: int
    outputs: tuple[HostTensor, ...] = ()
    label: str = ""
    origins: tuple[str, ...] = ()

    @property
    def bodies(self) -> tuple[int, ...]:
        """Numbers of the bodies."""
        return self.taken, self.otherwise


@dataclass(frozen=True)
class Carried:
    """A value that a loop carries from one iteration to the next.

    Attributes:
        initial: Before the first iteration.
        final: After the last one; every other iteration writes here.
        spare: The others write here.
        read: Slot of the value that an iteration gets.
        written: Slot of the value that it makes.
        nbytes: Its size.
    """

    initial: Location
    final: Location
    spare: Location
    read: int
    written: int
    nbytes: int


@dataclass(frozen=True)
class Lane:
    """An array that a loop goes along, an item each iteration.

    Attributes:
        array: Where it lies.
        slot: Of the item.
        start: Offset in bytes of the first iteration's item.
        stride: From one iteration's item to the next one's, in bytes; negative where the loop goes backwards.
    """

    array: Location
    slot: int
    start: int
    stride: int


@dataclass(frozen=True)
class LoopStep:
    """Runs a body again and again.

    Attributes:
        body: Its number.
        trips: Most iterations; None where `limit` or the condition alone ends it.
        limit: An int64 that holds the most iterations, if any.
        condition: A boolean, whether to begin at all; begins if None.
        counter: An int64 in the workspace that the body reads the iteration's number from, if any.
        going_on: A boolean in the workspace that tells the body the condition under which it runs, if any.
        kept: A boolean in the workspace by which the body says whether to go on; goes on if None.
        carried: Values from one iteration to the next.
        lanes: Arrays that are scanned or collected.
        outputs: What the loop makes.
        label: For profiles.
        origins: The ONNX nodes it came from.
        flops: Operations of all iterations, 0 if unknown.
        bytes: Least traffic of all iterations, 0 if unknown.
    """

    TAG: ClassVar[str] = "loop"
    body: int
    trips: int | None
    limit: Location | None = None
    condition: Location | None = None
    counter: Location | None = None
    going_on: Location | None = None
    kept: Location | None = None
    carried: tuple[Carried, ...] = ()
    lanes: tuple[Lane, ...] = ()
    outputs: tuple[HostTensor, ...] = ()
    label: str = ""
    origins: tuple[str, ...] = ()
    flops: int = 0
    bytes: int = 0

    def __post_init__(self) -> None:
        check_not_negative("number of iterations", self.trips or 0)
        if self.lanes and self.trips is None:
            raise PackageError("a loop along arrays has a number of iterations")

    @property
    def bodies(self) -> tuple[int, ...]:
        """The body's number."""
        return (self.body,)
