"""The request log: what a line says, and the thread that writes it."""
