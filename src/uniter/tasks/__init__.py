"""Benchmarks, one file each; a task is found by its module's path."""
