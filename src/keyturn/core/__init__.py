"""What should happen: pure functions over frozen values. No clock, no randomness, no I/O, no logging."""
