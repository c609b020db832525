"""ONNX in and out: importer, exporter and preflight check."""

from graphc.frontend.binding import Bindings, bind_dims
from graphc.frontend.check import check
from graphc.frontend.exporter import export_model, save_model
from graphc.frontend.importer import Imported, import_model, read_model
from graphc.frontend.report import Port, Problem, Report
from graphc.frontend.schema import CANONICAL_OPSET
from graphc.frontend.source import ModelSource

__all__ = [
    "CANONICAL_OPSET",
    "Bindings",
    "Imported",
    "ModelSource",
    "Port",
    "Problem",
    "Report",
    "bind_dims",
    "check",
    "export_model",
    "import_model",
    "read_model",
    "save_model",
]
