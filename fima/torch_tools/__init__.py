"""PyTorch beside the method: processes, precision, memory, determinism."""
