"""What a class of a model declares, and what its author must know: nothing here knows a guest, a handle or the wire."""
