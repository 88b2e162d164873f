"""Tokens, keys and password hashes: deterministic given their bytes and arguments.

Time is an argument here and entropy is an argument here. Nothing in this package may
read a clock, open a connection or know what a session's rules are (`core` does).
"""
