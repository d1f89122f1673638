"""A machine as a process: its sockets, its control, its front panel, its service manager."""
