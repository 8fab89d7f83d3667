"""A model that MLServer serves: EfficientNet-Lite2 through ONNX Runtime."""
