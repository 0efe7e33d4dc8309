"""Fragments on this node's drives, and the same store over rpc."""
