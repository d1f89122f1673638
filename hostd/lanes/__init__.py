"""Carriers: each brings the bodies of one guest, and takes its answers and hints.  `lane` says what one is.

A lane owns order, slots and tickets, and knows no device: it gives bodies to the guest's `dispatch` when the guest
says that it is its turn.  The Unix socket is lane 0; others have a handle of their own, whose vector 0 means
"answers wait".
"""
