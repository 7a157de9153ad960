"""Questions over the state of a process, and their answers as data:
frozen dataclasses, JSON with a schema, text for people.

May import `process` and what is below it. Nothing here changes what it asks about.
"""
