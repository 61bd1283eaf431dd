"""Stages as Prefect tasks: caching, logging and side effects; no mathematics."""
