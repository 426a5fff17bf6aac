"""Read and write archives of exports."""
