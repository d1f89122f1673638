"""Pure codecs that both ends need."""
