"""PyTorch around the method: processes, precision, memory, determinism."""
