"""A machine as a process: its sockets, its control, its service manager."""
