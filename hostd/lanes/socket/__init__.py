"""The lane of a Unix stream socket: the greeting, the link, and its session."""
