"""How fast a machine trains, measured without any data: what `fima benchmark` runs."""
