"""The demo: a server on this machine, with short times, and one page that shows what it decides.

Nothing outside this package imports it but the command line. None of it is for production.
"""
