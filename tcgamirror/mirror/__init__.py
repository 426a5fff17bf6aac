"""Keep one mirror: directory, settings, lock file, update, verify, rebuild, doctor."""
