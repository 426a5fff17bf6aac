"""The man page and the shells' completions, from the parser that makes `--help`."""
print("todo")
