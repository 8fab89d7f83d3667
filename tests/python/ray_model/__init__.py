"""A deployment for Ray Serve: EfficientNet-Lite2 through ONNX Runtime."""
