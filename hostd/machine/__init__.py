"""A running machine, and the file that describes it.

`file` reads and checks, `models` finds classes, `host` plugs them into a tree and lets guests in, `reload` changes
it to what the file says now, `identity` is where chance comes in, `means` is what the process may have.  Knows no
command line, no control socket, no systemd.
"""
