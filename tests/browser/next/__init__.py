"""The Next.js example in Chromium, over a real server."""
