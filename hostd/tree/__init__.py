"""Places, and what is plugged into them.  Stands on the author's pages; knows no guest.

The life of a device, from plug to gone:

1. `Tree.check` looks at the place: nothing is taken hold of for a name that is none, is taken, or leaves with its
   bus.
2. `Plugged` gives the device its `Site`, and `Plugged.start` calls the model.  If that raises, `stop` lets go of
   what it had taken, and nothing was ever in the tree.
3. `Tree.plug` makes the node.  Watchers hear ADDED; guests, who watch through their accounts, get a hint.
4. Guests hold it (`calls.hold`).  `Plugged.holds` are all holds, `live` takes interrupts of those that are set up.
   The last that is given back, or the driver's reset, resets the model; a reset that fails breaks all holds down,
   until one succeeds.
5. `Tree.leave` (LEAVING): it can be opened no more, and guests are asked to let go; `when_free` tells when they did.
6. `Tree.remove` (REMOVED), then `Plugged.retire`: every hold is closed, its calls are answered RESET.  `stop`
   follows when no worker thread has its hands on the device any more: at once, most often.

Whatever the model raises in all this ends in `Plugged.invoke`, or for a guest's call in its `Entry`, which makes an
answer of it (`outcome`); it is told once in the log (`complaints`), and fails the device or the one who asked.
"""
