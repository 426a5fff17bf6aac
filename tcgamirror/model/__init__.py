"""Define the vocabulary without I/O: errors, slides, geometry, ranges, sampling, fields, text."""
