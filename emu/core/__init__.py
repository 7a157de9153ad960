"""Guest addresses, events, effects and errors. Imports the standard library only."""
