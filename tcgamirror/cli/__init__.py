"""Parse arguments, run commands and write to the terminal."""
