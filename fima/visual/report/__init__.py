"""One self-contained page about runs: what was trained, how it went, what came out, and pictures of it."""
