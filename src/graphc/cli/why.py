"""`graphc why`: why a rule or a pass did not do something, or what it did, node by node."""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from graphc.cli.common import add_compile_options, add_json, add_model, compile_options, parse_dims, print_json
from graphc.cli.progress import Progress
from graphc.cli.table import count, names, shorten
from graphc.cli.toolchain import installed
from graphc.cli.values import compile_values
from graphc.errors import OptionError

if TYPE_CHECKING:
    from graphc.compiler import CompileOptions, Lowered
    from graphc.passes.base import Application
    from graphc.passes.why import Answer, Inquiry, Place

DESCRIPTION = """Tell where a rule or a pass was applied in a model, and where it was not: how far the rule's pattern
matched and what stopped it, which condition refused and with what values, or what kept a pass from doing more. `host`
asks why nodes run in NumPy.

The passes run as in a compile. A rule is asked about the graph that its pass leaves behind; a pass that the pipeline
does not have is put in before layout and fusion. No kernel is compiled."""

EXAMPLES = """
  graphc why model.onnx gelu                       where it was found, and how near the others came
  graphc why model.onnx layer_norm /encoder/Div    one node, by the name that the model gives it
  graphc why model.onnx fuse --dim batch=1         which nodes are one kernel, and why others are not
  graphc why model.onnx layout /conv1/Conv         why a convolution is not stored in blocks
  graphc why model.onnx merge_matmuls
  graphc why model.onnx host --json
"""

HOST = "host"
_PUT_BEFORE = ("layout", "fuse", "order")
_SHOWN = 8
_WIDTH = 90
_NAMED = re.compile(r"%\S+|\b\w+\[[^\]]*\]|\b\d+\b")
"""What differs between reasons of one kind: values, types, numbers."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    add_model(parser)
    parser.add_argument("name", metavar="RULE_OR_PASS", help="a rule, a rule set, a pass, or host")
    parser.add_argument("node", metavar="NODE", nargs="?", help="only this node, by its name or one of its outputs")
    parser.add_argument("--all", action="store_true", help="every reason, not the first few of each kind")
    add_compile_options(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Tells it."""
    with installed():
        from graphc.passes.why import Inquiry

    with Progress() as progress:
        chosen = compile_options(options, progress)
        if options.name == HOST:
            answers, inquiry = _hosts(_lowered(options, chosen), options.node), None
        else:
            inquiry = Inquiry(options.name)
            pipeline, put_in = _pipeline(chosen, inquiry, options.target)
            _lowered(options, dataclasses.replace(chosen, passes=pipeline, observers=(inquiry,)))
            if not inquiry.runs:
                raise OptionError(
                    "no pass ran, since dimensions or values of the model are open",
                    hint="bind them with --dim or --value; graphc inspect lists them",
                )
            answers = inquiry.answers if options.node is None else inquiry.about(options.node)
    fate = inquiry.fate(options.node) if inquiry is not None and options.node is not None else []
    if options.json:
        print_json({"asked": options.name, "answers": list(map(_facts, answers)), "changes": list(map(_change, fate))})
        return 0
    page = [] if inquiry is None else list(_head(options.name, inquiry, put_in))
    page += _sections(answers, every=options.all or options.node is not None)
    if not answers:
        page.append(_nothing(options, inquiry))
    if fate:
        page.append(f"What became of {options.node}, in order:\n{_fate_text(fate)}")
    print("\n\n".join(page))
    return 0


def _lowered(options: argparse.Namespace, chosen: CompileOptions) -> Lowered:
    from graphc.compiler import lower_model

    return lower_model(
        options.model,
        target=options.target or "cpu",
        dims=parse_dims(options.dims),
        values=compile_values(options),
        options=chosen,
    )


def _pipeline(chosen: CompileOptions, inquiry: Inquiry, target: str | None) -> tuple[str, bool]:
    """The pipeline with the pass in question, and whether it had to be put in.

    Raises:
        OptionError: The rules are of a set that no pass applies.
    """
    from graphc.compiler.targets import targets_of
    from graphc.passes import PASSES, default_pipeline, parse_pipeline, print_pipeline

    kind = targets_of(target or "cpu")[0].kind
    passes = list(default_pipeline(chosen.level, kind) if chosen.passes is None else parse_pipeline(chosen.passes))
    if any(pass_.name in inquiry.passes for pass_ in passes):
        return print_pipeline(passes), False
    name = min(inquiry.passes)
    if name not in PASSES:
        raise OptionError(
            f"no pass applies the rules of set {name!r}", hint="derive one from graphc.passes.RulePass and register it"
        )
    place = next((i for i, pass_ in enumerate(passes) if pass_.name in _PUT_BEFORE), len(passes))
    return print_pipeline([*passes[:place], *parse_pipeline(name), *passes[place:]]), True


def _hosts(lowered: Lowered, node: str | None) -> list[Answer]:
    from graphc.passes.why import Answer, Place

    if not lowered.programs:
        raise OptionError(
            "nothing was lowered, since dimensions or values of the model are open",
            hint="bind them with --dim or --value; graphc inspect lists them",
        )
    hosts = [host for program in lowered.programs for host in program.host]
    found = [Answer(HOST, "refused", Place.of(host.node), host.reason) for host in hosts]
    known = {name for inner in lowered.imported.graph.all_graphs() for n in inner.nodes for name in Place.of(n).labels}
    if node is not None and node not in known and not any(answer.is_about(node) for answer in found):
        from graphc.passes.pipeline import suggestion

        raise OptionError(f"no node is called {node!r}{suggestion(node, known)}")
    return [answer for answer in found if node is None or answer.is_about(node)]


def _head(name: str, inquiry: Inquiry, put_in: bool) -> Iterator[str]:
    if len(inquiry.rules) == 1:
        yield f"{name}: {inquiry.rules[0].summary}"
    if put_in:
        yield f"The pipeline does not run {min(inquiry.passes)}; this is what it would do before layout and fusion."


def _sections(answers: Sequence[Answer], *, every: bool) -> Iterator[str]:
    """Applied, refused, not matched: each with its answers grouped by reason."""
    titles = {
        "applied": "Applied at {}",
        "refused": "Refused at {}",
        "unmatched": "Not matched at {}, the nearest first",
    }
    several = len({answer.subject for answer in answers}) > 1
    for verdict, title in titles.items():
        chosen = [answer for answer in answers if answer.verdict == verdict]
        if not chosen:
            continue
        lines = [title.format(count(len(chosen), "node"))]
        near = [answer for answer in chosen if answer.others]
        if verdict == "unmatched" and several and not every:
            lines += [f"  only the root's operator fits at {len(chosen) - len(near)} of them; --all has them"]
            chosen = near
        groups: dict[tuple[str, str, int], list[Answer]] = {}
        for answer in chosen:
            kind = (answer.subject, _NAMED.sub("", answer.reason), len(answer.bound and answer.others))
            groups.setdefault(kind, []).append(answer)
        listed = list(groups.values()) if verdict == "unmatched" else sorted(groups.values(), key=len, reverse=True)
        shown = listed if every else listed[:_SHOWN]
        lines += [line for group in shown for line in _group(group, several=several, every=every)]
        if len(listed) > len(shown):
            rest = sum(map(len, listed[len(shown) :]))
            lines.append(
                f"  and {count(len(listed) - len(shown), 'more reason')} at {count(rest, 'node')}; --all has them"
            )
        yield "\n".join(lines)


def _group(group: Sequence[Answer], *, several: bool, every: bool) -> Iterator[str]:
    """Answers of one kind: the reason as the first has it, how often, and the nodes."""
    first = group[0]
    subject = f"{first.subject}: " if several else ""
    what = first.reason or ("applied" if several else "")
    times = f"  ({len(group)} ×)" if len(group) > 1 else ""
    if subject or what:
        yield f"  {subject}{what}{times}"
    for answer in group if every else group[:1] if what else group[:_SHOWN]:
        if every and answer is not first and answer.reason != first.reason:
            yield f"  {subject}{answer.reason}"
        yield f"      at       {_place(answer.place)}"
        for label, text in _details(answer):
            yield f"      {label:<8} {text}"
    if not what and not every and len(group) > _SHOWN:
        yield f"      and {len(group) - _SHOWN} more; --all has them"


def _details(answer: Answer) -> Iterator[tuple[str, str]]:
    label = "matched" if answer.bound or answer.stopped else "with"
    for place in answer.others:
        yield label, _place(place)
        label = ""
    if answer.stopped is not None:
        yield "stopped", _place(answer.stopped)
    label = "where"
    for name, text in answer.bound.items():
        yield label, f"{name} = {text}"
        label = ""


def _place(place: Place) -> str:
    origins = [origin for origin in place.origins if origin]
    node = shorten(place.node, _WIDTH)
    return f"{node}   from {names(origins, shown=3, limit=48)}" if origins else node


def _nothing(options: argparse.Namespace, inquiry: Inquiry | None) -> str:
    name, node = options.name, options.node
    if inquiry is None:
        return "No node runs on the host." if node is None else f"{node} does not run on the host."
    if node is not None:
        return f"Nothing was left of {node} when {name} was asked."
    if len(inquiry.rules) == 1:
        roots = ", ".join(sorted(op for _, op in inquiry.rules[0].roots))
        return f"There was no node that it could start at when it was asked: no {roots}."
    return f"There was nothing to do for {name}."


def _fate_text(fate: Sequence[tuple[str, Application]]) -> str:
    return "\n".join(f"  {name}{'' if each.action == name else '.' + each.action}   {each.node}" for name, each in fate)


def _change(entry: tuple[str, Application]) -> dict[str, Any]:
    name, application = entry
    return {"pass": name, **vars(application)}


def _facts(answer: Answer) -> dict[str, Any]:
    return {
        "subject": answer.subject,
        "verdict": answer.verdict,
        **_node_facts(answer.place),
        "reason": answer.reason,
        "others": list(map(_node_facts, answer.others)),
        "stopped": None if answer.stopped is None else _node_facts(answer.stopped),
        "where": dict(answer.bound),
    }


def _node_facts(place: Place) -> dict[str, Any]:
    return {"node": place.node, "origins": place.origins}
