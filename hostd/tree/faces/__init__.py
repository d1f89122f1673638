"""Faces: the tree as one sort of prober finds it.

Each is a view of the tree that knows no guest, and keeps nothing but the addresses that it gave; the calls of the core
that show it (`calls.core`, a file of the same name) leave out what a guest does not see.
"""
