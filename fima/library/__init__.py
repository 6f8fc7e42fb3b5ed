"""A folder of videos as a library: its index, what is wrong with it, and a smaller copy of it."""
