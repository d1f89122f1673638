"""virtio-msg: a second socket, whose datagrams are the messages of a bus of virtio's.

`link` carries them, `answers` says what each does: who is there, what it is like, and its negotiation.  A device whose
status was written is open, as by OPEN, until 0 is written, which gives it back.  It has no queues, says DEVICE_INFO.
"""
