"""Pictures: activation maps, the method's view of a video, contact sheets, the report of a run."""
