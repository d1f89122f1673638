"""Attacks on a daemon from its guest socket, and a quiet guest beside them that tells how long it waits.

`Stage` is a daemon as a process of its own, and what it holds.  `Canary` is the quiet guest, a process too, of the user
ALICE.  An attack is a coroutine function in a file of `known/`; it runs in a process of another user, BOB, or of
ALICE, and gets an `Enemy`: where to attach, how long, chance with a known seed, and where to count.  When it has done
its worst it may `await enemy.hold()`: meanwhile a guest of ALICE's comes back on a new link, and somebody who is new
attaches.  What was seen is a `Row`, which says whether it holds.

`mutants` takes mends out, one at a time, and wants each to be missed by an attack.

`scripts/torture` runs all; `test_attack.py` runs each, briefly, and judges only what a busy machine cannot change.
"""
