"""The Python clients against a real server, through a network that misbehaves."""
