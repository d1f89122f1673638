"""The device models: one file each, found by its name, which is the machine file's `model`."""
