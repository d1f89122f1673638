"""What host and guest share: statuses, numbers, the wire, sessions, guest memory.  No sockets and no loop.

The ground floor: it imports neither `hostd` nor `guestd`.
"""
