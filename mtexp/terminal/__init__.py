"""The face: the command line, what it prints, and the signals that end it."""
