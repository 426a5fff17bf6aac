"""The SQLite catalogue, composed of parts: listing, sample, queue, images, reports and rows."""
