"""Places, and what is plugged into them."""
