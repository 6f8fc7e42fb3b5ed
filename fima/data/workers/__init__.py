"""Processes that decode: guarded against crashes and hangs, with shared memory."""
