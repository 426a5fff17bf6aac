"""Turn slide bytes into pixels and an image file, and read it back."""
