"""Sockets, and the network that the guest has for itself."""
