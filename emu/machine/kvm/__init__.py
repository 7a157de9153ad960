"""The engine that runs the guest on the host's own CPU, in ring 3 of a virtual
machine without any kernel in it.
"""
