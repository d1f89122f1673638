"""The lane of a Unix stream socket: `listener`, `greeting`, `link`, and the `lane` that outlives its links."""
