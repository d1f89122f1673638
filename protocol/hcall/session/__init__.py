"""Both ends of a session without I/O: bytes in, messages and bytes out.  Every call has its effect exactly once.

A lane has N slots.  Each new call carries the lane's next seq and one slot; by that it acknowledges the slot's previous
reply, which the host forgets then.  The guest keeps a call, the host its reply, until the one knows of the other:

    guest (`guest.GuestSession`)                            host (`host.HostSession`)
    call: takes a free slot, keeps the message              receive: seq is the next one: a new call, handed out once
    receive: the answer frees the slot                      reply: sent, and kept in the slot
    lose: keeps all that are unanswered                     lose: keeps the slots
    WELCOME of the resume: sends them again, in seq order   receive: seq is the slot's own: the kept reply, or nothing
                                                              yet, is the answer; the call is not handed out again

So a link may be cut anywhere, between any two bytes in either direction, and no call is made twice or left out (the
scheme of NFSv4.1 sessions, RFC 8881, 2.10.6).  The host's slots may even go on in another process: `save`, `restore`.
Calls of one number and handle may share a message, a slot and a seq: a bundle.  The host answers it in parts, as the
calls in it are done, and keeps all parts for the slot; the guest keeps the bundle until the last is there, and passes
over what a repeat brings twice.

`states` has the one table of each end that says what may happen when.
"""
