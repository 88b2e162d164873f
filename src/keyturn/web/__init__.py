"""HTTP to values and back, once: endpoints over Request and Response, and the plain ASGI application."""
