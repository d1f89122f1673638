"""What stands in front of guests while somebody wants it, and costs nothing else.

A trace begins with its first reader: a filter comes in front of every guest, and the tree and the guests are watched.
What happens becomes a line at once, so nothing that a guest sent, and none of its memory, is kept; the line goes to
every reader that has room for it.  With the last reader all of that is taken out again.
"""
