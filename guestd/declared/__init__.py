"""What a driver's class declares, what it says of its device by that, and what is wrong with it."""
