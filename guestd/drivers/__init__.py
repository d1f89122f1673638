"""The drivers: one file each; the bus core finds them by what they say they are compatible with."""
