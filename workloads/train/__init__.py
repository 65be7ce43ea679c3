"""Trains a small GPT, by one of several methods."""
