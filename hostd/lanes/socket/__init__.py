"""The lane of a Unix stream socket: `listener`, `anteroom`, `greeting`, `link`, the `lane` itself, the `porter`."""
