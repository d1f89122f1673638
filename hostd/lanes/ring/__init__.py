"""Rings in a guest's memory: a lane for the calls of one device that the guest has open.

`queue` is the host's end of the memory, `lane` makes the calls, `rings` are those of one guest.
"""
