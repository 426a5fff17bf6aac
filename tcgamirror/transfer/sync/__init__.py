"""Bring one mirror to the state of another."""
