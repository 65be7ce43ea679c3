"""The JSON schema and the reference page of topology files, made from the models."""
