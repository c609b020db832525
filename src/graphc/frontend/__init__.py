"""ONNX in and out: importer, exporter and preflight check."""

from graphc.frontend.binding import bind_dims
from graphc.frontend.exporter import export_model, save_model
from graphc.frontend.importer import Imported, import_model, read_model
from graphc.frontend.schema import CANONICAL_OPSET

__all__ = ["CANONICAL_OPSET", "Imported", "bind_dims", "export_model", "import_model", "read_model", "save_model"]
