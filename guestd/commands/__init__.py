"""What a person types: the command `guestd`."""
