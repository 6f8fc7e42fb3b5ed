"""Pre-training and fine-tuning: loop, step, resume, logs, health, signals."""
