"""Other systems under the same load, each a server of its own; `rates.py` compares."""
