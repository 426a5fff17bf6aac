"""Fetch by HTTP: retries, deadlines, rate limit, ranged and resumed downloads."""
