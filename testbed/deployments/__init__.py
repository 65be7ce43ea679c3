"""Networks that stand until they are destroyed: `keeper` and `agent` hold them, `deployment` and
`client` use them.
"""
