"""The catalog: who owns what, who may use it, and which versions a run was made with."""
