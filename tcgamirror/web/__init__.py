"""Show a mirror to people: gallery and read-only server."""
