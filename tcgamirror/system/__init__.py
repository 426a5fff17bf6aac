"""Use the operating system: atomic files, lock, bounded parallel map, signals."""
