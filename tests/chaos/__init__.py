"""Faults for real: killed servers and databases, cut wires, a failover, in the middle of a storm of refreshes."""
