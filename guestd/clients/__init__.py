"""A guest without its I/O, and the two ways to run one: in an event loop, or without."""
