"""Time that passes only where somebody waits or computes, and servers on it."""

import heapq


class VirtualTime:
    """A clock of tests."""

    def __init__(self):
        self.now_s = 1000.0

    def clock(self):
        return self.now_s

    def sleep(self, seconds):
        self.now_s += seconds


class OneAfterTheOther:
    """Answers while it is asked, in ``service_s``; once, at request ``stalls_at``, it takes ``stall_s`` longer."""

    rows, waits = 3, True

    def __init__(self, time, service_s, *, stalls_at=-1, stall_s=0.0):
        self.time, self.service_s, self.stalls_at, self.stall_s = time, service_s, stalls_at, stall_s
        self.asked = []

    def ask(self, number, log):
        self.asked.append(self.time.now_s)
        self.time.now_s += self.service_s + self.stall_s * (number == self.stalls_at)
        log.answered(number, self.time.now_s)

    def abandon(self, log):
        pass


class Queued:
    """Takes requests at once and answers them by ``servers`` in their order, in ``service_s`` each."""

    rows, waits = 1, False

    def __init__(self, time, service_s, *, servers=1):
        self.time, self.service_s = time, service_s
        self.free_s = [0.0] * servers
        self.abandoned = False

    def ask(self, number, log):
        begin_s = max(self.time.now_s, heapq.heappop(self.free_s))
        heapq.heappush(self.free_s, begin_s + self.service_s)
        log.answered(number, begin_s + self.service_s)

    def abandon(self, log):
        self.abandoned = True
