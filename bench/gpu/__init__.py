"""graphc's kernels and models on a GPU beside cuBLAS, cuDNN, torch and ONNX Runtime: `python -m bench.gpu`."""
