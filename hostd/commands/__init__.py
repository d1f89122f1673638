"""What a person types: the command `hostd`."""
