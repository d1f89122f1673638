"""Faces: the tree as each sort of prober finds it, a view that keeps nothing but the addresses that it gave.

An address stands for a node as long as that is there, and for no other while a guest could mistake the two.  A face
knows no guest: what one does not see, whoever asks the face leaves out, as the calls of the core that show it do
(`calls.core`, a file of the same name).
"""
