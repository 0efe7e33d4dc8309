"""Redundancy schemes, striping and codecs. Pure."""
