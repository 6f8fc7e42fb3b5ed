"""Files that stay whole: atomic writes, JSON lines, locks."""
