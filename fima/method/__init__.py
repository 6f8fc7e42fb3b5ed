"""The method: encoders, heads, queues and what one training step computes."""
