"""A Triton function as text, and its launches: what templates write, and what is compiled or interpreted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from graphc.ir import Dim
from graphc.package.cuda import Integer, Pointer, Status

ALIGNMENT = 256
"""Bytes to which every buffer on a GPU is aligned; kernels are compiled knowing it."""

Constant: TypeAlias = int | float | bool | str
"""What a constexpr parameter may be."""


@dataclass(frozen=True)
class Argument:
    """One run-time parameter of a function.

    Args:
        name: In the function's text.
        type: Triton's name: `*fp32`, `*i8`, `i32`, `i64`.
        value: What a launch gives for it.
        multiple: What it is known to be a multiple of (an address: of how many bytes); Triton uses 16.
    """

    name: str
    type: str
    value: Pointer | Integer | Status
    multiple: Literal[1, 16] = 16


@dataclass(frozen=True)
class Function:
    """A function decorated with `triton.jit`, and how it is compiled. Equal functions are one cubin.

    Args:
        text: A whole module: imports, helpers, the function. Equal for equal kernels, in every process.
        name: Of the function.
        arguments: Run-time parameters, in the function's order, before the constants.
        constants: Its constexpr parameters and their values.
        warps: Warps of a block.
        stages: Loads that a software pipeline keeps ahead.
        cluster: Blocks of a cluster.
        registers: Most registers of a thread; None leaves it to the compiler.
    """

    text: str
    name: str
    arguments: tuple[Argument, ...]
    constants: tuple[tuple[str, Constant], ...] = ()
    warps: int = 4
    stages: int = 2
    cluster: int = 1
    registers: int | None = None


@dataclass(frozen=True)
class FunctionLaunch:
    """One launch of a function.

    Args:
        function: What is launched.
        grid: Blocks along x, y and z, over the symbols of the kernel's dimensions.
    """

    function: Function
    grid: tuple[Dim, Dim, Dim]
