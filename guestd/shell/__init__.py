"""`guestd shell`: an `ok` prompt in the manner of open firmware."""
