"""Pictures: activation maps and contact sheets."""
