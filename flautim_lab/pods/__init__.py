"""Runs as Kubernetes objects; the only folder that imports ``kubernetes``."""
