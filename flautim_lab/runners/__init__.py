"""WHERE a run executes, and the ``Run`` that every face is given."""
