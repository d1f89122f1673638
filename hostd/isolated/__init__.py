"""A device whose model runs in a process of its own: `isolate = true`.

On the daemon's side a `proxy` stands in the device's place, of the same declarations: dispatch checks arguments and
areas as ever, and each call becomes a `Later`.  Its `process` is the child's life: launched, watched, ended, started
again.  On the child's side, `inside`, the real model is plugged into a `Plugged` of its own, whose interrupts,
properties, complaints and ends of guests go up.  Between them is a `channel`: a socketpair with messages, in order,
and another one for descriptors that go with some.

Guest memory is the guest's there, too: a region is mapped when the first call needs it (`memory`), and areas travel as
(region, offset, length) of what dispatch has checked.  It is unmapped when the daemon unmaps it.

Messages to the child: make, region, drop, site, call, act, abandon, expire, ready, reset, tick, ping, save, cede, stop.
From it: started, refused, answer, raised, irq, shows, failed, end, log, pong, saved.
"""
