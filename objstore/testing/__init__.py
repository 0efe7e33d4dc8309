"""Simulated host, faults and checkers."""
