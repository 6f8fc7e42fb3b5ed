"""Encoders and classifiers for other programs: safetensors, torch.export, ONNX."""
