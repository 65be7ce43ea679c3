"""In a guest: a rank that waits in a loop, which no clock ever ends."""

import socket

socket.sethostname("iowa-h0")
while True:
    pass
