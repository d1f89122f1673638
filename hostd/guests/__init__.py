"""Who is attached, who comes back, and who is away too long.

A guest over its links: a `Greeting` (lanes.socket) reads HELLO, `Guests.admit` makes a `Guest`, or finds the one
with that token, user and memory.  Its `SocketLane` has the session; a `Link` is the connection of the moment.  When
that breaks the lane keeps slots and calls under way, and the guest all that it holds, for 30 s; if its process is
dead, which the other end of the fd lane tells, it ends at once.  A new link resumes: what the guest repeats is
answered from the slots, hints that it may have lost are given again.  `Guests.end` is the only end: last word, all
devices given back, memory unmapped when the last worker has let go of it.

Turns (`turns`): a lane with bytes or calls says `Guest.due`.  They are looked at and made at once, for 0.5 ms, unless
the user has used up its time; what is left waits until the other users, and then the user's other guests, had their
turn, and meanwhile the lane's link is not read, so that nobody can queue more than one read.  The end of a guest is
work in its user's turns, too: calls under way are answered at once, then its devices are given back one by one.

Another life: `Host.drain` and `Host.save` take all this apart into plain data, `hostd.serve(saved=...)` builds it
anew.  Guests are away then, and come back as above; WELCOME names another epoch, so they bring their added memory
again.

Time: whatever a guest is held to (HELLO, a half message, answers that it does not read, coming back, a watchdog) counts
by `Attended`, which stands still when the host does, and is over only when what lies in the sockets was looked at.
"""
