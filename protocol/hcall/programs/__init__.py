"""What hostd and guestd are as programs: their command lines, help and plugins."""
