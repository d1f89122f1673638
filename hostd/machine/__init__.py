"""A running machine, and the file that describes it."""
