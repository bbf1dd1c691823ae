"""What a model costs and what a run shows: counts, the paper's tables, reports."""
