"""Channel programs of one guest: how they run in its memory, and what became of them at each subchannel."""
