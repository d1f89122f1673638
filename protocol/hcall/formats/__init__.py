"""Pure codecs, a file for each format: bytes to what they mean, and back; and the numbers that both ends need."""
