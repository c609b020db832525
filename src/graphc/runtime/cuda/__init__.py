"""Runs packages on GPUs through the CUDA driver, with NumPy and cuda-bindings alone; imported when it is asked for."""

from __future__ import annotations

from graphc.runtime.cuda.array import DeviceArray
from graphc.runtime.cuda.device import Device, devices

__all__ = ["Device", "DeviceArray", "devices"]
