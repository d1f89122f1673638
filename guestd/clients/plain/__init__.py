"""What the client without a loop is made of: `pending` calls, `tasks` that run side by side, a clock, and the link.

`BlockingGuest.pump` is where it all waits: what is to be sent goes out, then bytes come, or a moment of the clock does.
Answers wake those who await a `Pending`, interrupts those who await the next hint, the clock those who sleep or have no
more time; `tasks` lets each go on that was woken, and pumps again when none can.
"""
