"""What a pass is, what it is told while it runs, and the table in which passes are found by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

from graphc.errors import OptionError
from graphc.ir import Graph, Node
from graphc.target import Capability


@dataclass(frozen=True)
class Refusal:
    """Why something was not done to a node.

    Args:
        reason: One sentence without a full stop, e.g. `the scale is not a constant`.
        rule: The rule or pass that refused.
        node: The node, in one line of text form.
        origins: Names of the ONNX nodes it came from.
    """

    reason: str
    rule: str = ""
    node: str = ""
    origins: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = f" at {self.node}" if self.node else ""
        return f"{self.rule or 'rule'} refused{where}: {self.reason}"


@dataclass(frozen=True)
class Application:
    """One change of a graph, as its pass announced it.

    Args:
        action: The rule or pass.
        node: The node at which it happened, in one line of text form, as it was before.
        origins: Names of the ONNX nodes that it, and others that were replaced with it, came from.
    """

    action: str
    node: str
    origins: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.action} at {self.node}"


@dataclass(frozen=True)
class Finding:
    """What a pass has to say about one node, before it runs.

    Args:
        node: The node.
        text: What the pass would do to it, or why it would do nothing, without a full stop.
        done: Whether it would do it.
        others: Other nodes that it is about.
    """

    node: Node
    text: str
    done: bool = False
    others: tuple[Node, ...] = ()


def refuse(reason: str) -> Refusal:
    """What a condition or replacement answers when it will not apply."""
    return Refusal(reason)


@dataclass
class PassContext:
    """What passes share during one run of a pipeline.

    Args:
        target: The machine compiled for (`graphc.target.Target`), None where passes must not depend on one.
        options: Compile options by name.
        limit: How many rewrites may still be applied in all; None for no limit. `graphc bisect` searches over it.
        capability: What the backend can compile (`graphc.target.Capability`); None takes every operator to compile.
    """

    target: Any = None
    options: dict[str, Any] = field(default_factory=dict)
    limit: int | None = None
    capability: Capability | None = None
    history: list[Application] = field(default_factory=list)
    """Every change so far, over all passes, in order; `limit` cuts it short."""
    refusals: dict[Refusal, None] = field(default_factory=dict)
    """Every distinct refusal, in the order in which they came."""
    keep_refusals: bool = True

    @property
    def applied(self) -> int:
        """How many changes were made so far, over all passes."""
        return len(self.history)

    @property
    def is_spent(self) -> bool:
        """Whether the limit on rewrites is reached."""
        return self.limit is not None and self.applied >= self.limit

    def permit(self, action: str, node: Node, origins: Iterable[str] | None = None) -> bool:
        """Notes one rewrite of `node` and answers whether it may happen; a pass asks before every change it makes.

        Args:
            action: The rule or pass.
            node: At which it happens.
            origins: Names of the ONNX nodes concerned; those of `node` if None.
        """
        if self.is_spent:
            return False
        self.history.append(Application(action, node.describe(), node.origins if origins is None else tuple(origins)))
        return True

    def refused(self, action: str, node: Node, reason: str) -> None:
        """Notes that `action` was not done to `node`, and why."""
        if self.keep_refusals:
            self.refusals[Refusal(reason, action, node.describe(), node.origins)] = None


@runtime_checkable
class Pass(Protocol):
    """A frozen dataclass that changes graphs; its fields are its options.

    Its docstring states what holds before and after. The first line is what `graphc passes` lists.
    """

    name: ClassVar[str]

    def run(self, graph: Graph, context: PassContext) -> int:
        """Changes `graph` in place and answers how many changes it made."""


@runtime_checkable
class Explaining(Protocol):
    """A pass that can tell what it would do and why not more; of others, `graphc why` tells what they announced."""

    name: ClassVar[str]

    def explain(self, graph: Graph, context: PassContext) -> Iterable[Finding]:
        """What `run` would do to `graph`, which is not changed."""


PassClass = TypeVar("PassClass", bound=type[Pass])
PASSES: dict[str, type[Pass]] = {}
"""Every pass that a pipeline can name."""


def register_pass(cls: PassClass) -> PassClass:
    """Class decorator that makes a pass known by its name.

    Raises:
        OptionError: The class is no frozen dataclass, or another pass has its name.
    """
    parameters = getattr(cls, "__dataclass_params__", None)
    if parameters is None or not parameters.frozen:
        raise OptionError(f"pass {cls.__name__} must be a frozen dataclass")
    known = PASSES.get(cls.name)
    if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise OptionError(f"pass {cls.name!r} is registered already, by {known.__module__}.{known.__qualname__}")
    PASSES[cls.name] = cls
    return cls


def pass_options(pass_: Pass) -> Iterator[tuple[str, Any]]:
    """Names and values of the options of a pass that differ from their defaults."""
    for option in dataclasses.fields(pass_):  # type: ignore[arg-type]  # every Pass is a dataclass
        value = getattr(pass_, option.name)
        if value != option_default(option):
            yield option.name, value


def option_default(option: dataclasses.Field[Any]) -> Any:
    """Default of a dataclass field, `dataclasses.MISSING` where it has none."""
    factory: Callable[[], Any] | Any = option.default_factory
    return option.default if factory is dataclasses.MISSING else factory()


def describe_pass(pass_: Pass) -> str:
    """The pass as a pipeline writes it, e.g. `fold{max_bytes=4096}`; options at their defaults are left out."""
    options = " ".join(f"{name}={_option_text(value)}" for name, value in pass_options(pass_))
    return f"{pass_.name}{{{options}}}" if options else pass_.name


def _option_text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "|".join(_option_text(item) for item in value)
    return "none" if value is None else str(value)
