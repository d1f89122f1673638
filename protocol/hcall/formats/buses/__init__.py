"""How machines and buses are described: what firmware hands over, what a prober reads.  Pure codecs."""
