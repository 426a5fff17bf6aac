"""Copies of a mirror for other machines: export, import and sync.

An export is a directory or a tar archive, laid out like a mirror, with `README.txt` and
`SHA256SUMS` beside it. Whatever comes from elsewhere is untrusted: rows and images are taken
over one by one, each after it was checked.
"""
