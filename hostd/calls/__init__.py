"""A body becomes a call, and an answer: what every lane brings its guest's bodies to.  Knows no lane and no socket.

`Dispatcher.dispatch(number, handle, args, areas)` is the one way in, the filters in front of it (`filters`) look the
same from outside.  It checks the handle, and the number against the hold's table; the entry there (`tree.entries`)
checks the arguments, the areas (`memory`), and calls the model.  For class 0 a function of `core` is called with the
guest's `Account`.  What comes back or is raised becomes (status, value) in `tree.outcome`, and nowhere else.

A deferred answer: a model returns a `Later`, and dispatch a `Pending`, which keeps the areas of the call and stands
in the hold's `pending`.  The lane says `then(answer)` to it.  The first outcome counts: the model's, 60 s (`Host`
expires it), or RESET when the hold is closed or reset; a Later that a worker thread has its hands on (`runs`) is
answered when that is through, since the areas are its.  Then the areas are released, the lane answers, and the hold
hears that it `settled`.

A hold, from OPEN to its last worker: `Account.open` makes it; SET_STATUS moves its `Negotiation`, and DRIVER_OK
gives it the table of the accepted features and makes its `Vectors` live.  A reset and CLOSE go the same way
(`_end_calls`): silence, abandon what is pending, and when the last of it is settled, do what was asked for.  CLOSE
makes the handle stale at once; the device is reset, and free, only then.
"""
