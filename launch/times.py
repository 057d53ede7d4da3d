"""Within which times a job over several hosts goes on or ends; docs/launching.md states them.

Free of torch.
"""

# Of --rdzv-conf, in seconds; torch's are 600, 30, 5, 3 times and 60. torch's heartbeats come every interval or every
# second one, and what a cut has held back is sent again after 25 to 35 s (below): of a host whose network was cut for 20 s
# nothing may be heard for 10 + 35 s, and it is not lost.
RENDEZVOUS = {
    "join_timeout": 300,
    "last_call_timeout": 15,
    "keep_alive_interval": 5,
    "keep_alive_max_attempt": 10,
    "read_timeout": 60,
}
# What was sent to the first host and is not acknowledged for so long means that the connection is gone. The kernel tries
# again after 0.2, 0.6, 1.4, ... 25.4 s, or a third later where answers were slow before, on a busy machine say.
UNANSWERED_S = 40
LOST_HOST_SHUTDOWN_S = 8  # what ranks get to end that wait for those of a lost host
LOOK_EVERY_S = 1.0  # how often a launcher whose ranks are well looks whether another one's are not
CAUSE_PATIENCE_S = 3.0  # how long one whose ranks have failed because of others waits for the cause
TOLD_PATIENCE_S = 5.0  # how long one that has ended the job waits until the others know
