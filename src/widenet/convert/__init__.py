"""Models in and out: dense checkpoints, widening, model folders, ONNX."""
