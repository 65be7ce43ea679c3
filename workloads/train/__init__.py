"""Trains a small GPT."""
