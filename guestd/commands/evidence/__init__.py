"""What there is to see of each device in `hostd demo --all`: one file for each, named as the device.

`show(guest, folder)` uses the device once, with its real backing, compares what came out with what went in, and says in
a line what it saw; *folder* is where the machine file lies.  One that is not as it should be raises AssertionError.  A
file that shows several devices names them in DEVICES.
"""
