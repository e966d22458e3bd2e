"""Metrics, and the evaluations of depth, views and maps."""
