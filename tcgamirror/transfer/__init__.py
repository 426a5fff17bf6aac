"""Copies of a mirror for other machines: export, import and sync.

An export is a directory or a tar archive, laid out like a mirror, with `README.txt` and
`SHA256SUMS` beside it. Other mirrors are untrusted: each row and image is checked before it is
recorded.
"""
