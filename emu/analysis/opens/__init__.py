"""Opens that fail, and start-ups that do: which cause, what was searched and passed over, and what would make
it work (each remedy tried).
"""
