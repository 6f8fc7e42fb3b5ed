"""From video files to batches of views."""
