"""The debugger's side of a process: stops, steps and history, and gdb's remote protocol over them."""
