"""The lane of a Unix stream socket: `listener`, `greeting`, `link`, the `lane` that outlives it, and the `porter`."""
