"""HOW a run learns: the sole importer of Flower."""
