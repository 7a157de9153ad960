"""/proc: what the process may read about itself and the machine."""
