"""What a class of a model declares, and what its author must know: nothing here knows a guest, a handle or the wire.

When a class is made, `declares` collects what it and its bases have: keys of the machine file, properties, features and
interrupts (`keys`, `declared`), what it remembers (`state`), calls and actions (`handlers`).  `mistakes` and `names`
tell what is wrong with it, all at once.  A handler gets `areas`, and answers with a value, or with what comes `later`,
perhaps from its `workers`, or when all parts of its work are done.  `site` is all that a device knows of where it
stands, and `blame` what is said of one that fails.
"""
