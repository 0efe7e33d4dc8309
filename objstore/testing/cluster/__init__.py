"""Whole clusters on virtual time: real nodes on simulated hosts, clients, faults."""
