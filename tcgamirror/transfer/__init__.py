"""Carrying a mirror to another machine as an export: a directory or an archive that tells its sums.

An export is laid out as a mirror is, and has two files more: `README.txt` and
`SHA256SUMS`, which `sha256sum -c` checks. What comes in may be from anybody: an
import decides nothing by what an archive says of itself, and takes over rows and
images one by one, each after it was checked.
"""
