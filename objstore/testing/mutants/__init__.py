"""Known bugs, planted one at a time: what no checker complains of, no checker checks.

mutant     one bug: its name, how it is planted, which checker must find it, and where
catching   runs seeds with the bug until it is found, and the same seeds without it
consensus  bugs of Raft and of its log, run by the simulator of one group
metadata   bugs of state machines and commands, run by whole clusters
storage    bugs of chunks and of their repair, likewise
    storage    bugs of chunks and of their repair, likewise
"""
