"""Workload that trains a small GPT by one of several methods."""
