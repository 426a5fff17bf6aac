"""Bring a mirror to the state of another one: in a directory, in a bucket, or on a web server."""
