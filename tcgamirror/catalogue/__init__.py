"""Keep the SQLite catalogue: database, schema, listing, sample, queue, images, reports, rows."""
