"""Node-to-node frames over mutual TLS."""
