"""Many files at once: worker processes with time limits, here or on a Dask cluster."""
