"""The browser client in real Chromium, over the real server, through a network that misbehaves."""
