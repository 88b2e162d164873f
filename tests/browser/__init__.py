"""What a real browser makes of it."""
