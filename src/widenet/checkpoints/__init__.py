"""Model folders: loading, adapting to new data."""
