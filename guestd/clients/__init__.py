"""A guest without its I/O, and the two ways to run one: in an event loop, or without.

A call, from driver to answer:

    driver   awaits `dev.call(number, args, areas)`, which is the client's `call` for the handle of its device
    client   makes something to wait for (a Future, or a `Pending`), and hands it to the session as the call's waiter
    session  puts the call into a free slot and its bytes into `out`; without a slot it queues (hcall.session); calls
             that go out together are queued, too, and packed: those of one number and handle share a message
    client   writes `out`: asyncio at once if nothing is in flight, else once per turn; blocking with the next wait,
             and it reads while it cannot write
    client   hands what came to `session.receive`: (waiter, status, value) for each answer, and the interrupts
    client   gives value or error to the waiter; whoever waits goes on

A guest, over its links: it makes its token, its memory and its fd lane once, and its HELLO is the same on every link.
When a link breaks the session keeps all calls that have no answer, the client connects again for as long as its
`patience`, and WELCOME sends them once more; the host answers those that it has seen from its slots.  So a driver does
not notice.  The session is over for good when the host says END, no longer knows the token, or cannot be reached: then
`_lost` says why, everybody who waits gets it, and so does every later call.

`guest` is what both share, `reaching` how long they try, `hotplug` follows what is plugged and unplugged, `claiming`
waits for devices by their class, `unbound` has stand-ins for drivers; what only one of them needs is in `loop` and in
`plain`.

A call cannot be taken back: if whoever waits for it is cancelled, it has happened.  So what must not be lost is claimed
(`Guest.claim`): the answer goes to somebody else then, and whoever opens, binds or lends undoes it.
"""
