"""Bring a mirror to the state of another one: a directory, or what a web server publishes."""
