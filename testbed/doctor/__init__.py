"""What this machine can do: `machine` looks at it, `probes` judge what was seen, `capabilities`
says what follows.
"""
