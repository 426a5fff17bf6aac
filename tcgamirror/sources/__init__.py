"""List and fetch slides: GDC API and manifests; range, tiles and whole; scratch space."""
