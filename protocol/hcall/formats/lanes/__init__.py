"""Pure codecs of what carries calls, but for the socket."""
