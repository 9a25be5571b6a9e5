"""Tests of pods have a mock API server at hand."""

from __future__ import annotations

from tests.mock_cluster import cluster

__all__ = ["cluster"]
