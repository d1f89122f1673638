"""What host and guest share: statuses, numbers, the wire, sessions; and what both are as programs of Linux.

The ground floor: it imports neither `hostd` nor `guestd`.  The files of this folder, `session` and `formats` do no I/O;
what both ends do alike with the kernel is in `kernel`, with command lines and plugins in `programs`.
"""
