"""What keeps a run alive: signals, and later the watchdog and the guard against bad numbers."""
