"""WHAT is learned: datasets, partitions, models, loops, and the experiment that holds them."""
