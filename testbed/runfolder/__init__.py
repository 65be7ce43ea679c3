"""Write what happens in a run to typed files, and read the files as typed records."""
