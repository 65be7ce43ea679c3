"""Let guests of several machines share one virtual clock: a bridge on each machine.

The guests of a machine share memory with each other (`testbed.guest.sites`). The memory of each
machine describes all guests of the run; the guests of other machines are played by the bridge,
which exchanges packets and the guests' progress with the bridges of other machines over TCP.
"""
