"""Files: the tree that paths lead into, inodes, and what a descriptor refers to.

It knows neither tasks nor system calls: what it needs beyond its own, it is given.
"""
