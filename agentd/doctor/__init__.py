"""What is wrong with this installation: one finding a line, with its cause and what to do about it."""
