"""Carriers: each brings the bodies of one guest, and takes its answers and hints."""
