"""The format of exports, and their readers and writers."""
