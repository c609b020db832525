"""Single operators at usual sizes, beside ONNX Runtime."""
