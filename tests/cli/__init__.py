"""The command line and the server process, as a user runs them."""
