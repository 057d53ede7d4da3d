"""Steps and stacks: scripts/rehearse_cuda/counting.py over a runtime that is a dictionary."""

import sys

import torch

from scripts.rehearse_cuda import counting
from scripts.rehearse_cuda.counting import StepCounter, stack_of


class Runtime:
    def __init__(self):
        self.launches = 0

    def listen(self, heard):
        self.heard = heard

    def read(self):
        return {"launches": (self.launches, 2 * self.launches)}


def train(counter, runtime, first, steps):
    for number in range(first, first + steps):
        counter.begin(number, after_pause=number == first)
        runtime.launches += number
        runtime.heard(b"waits", b"what", 0)
        counter.end()
    counter.begin(first + steps)  # as the stepper does before it learns that there is no further batch
    counter.pause()


def test_steps_in_which_the_pipeline_is_filled_or_emptied_are_not_quiet():
    runtime = Runtime()
    counter = StepCounter(runtime, edge_steps=2)
    train(counter, runtime, 1, 7)
    train(counter, runtime, 8, 3)
    assert [step.number for step in counter.steps] == list(range(1, 11))
    assert [step.number for step in counter.steps if step.quiet] == [3, 4, 5]


def test_a_step_is_charged_with_what_happens_in_it():
    runtime = Runtime()
    counter = StepCounter(runtime, edge_steps=0)
    runtime.launches = 50
    runtime.heard(b"waits", b"what", 0)  # before any step
    train(counter, runtime, 1, 3)
    assert [step.counts["launches"] for step in counter.steps] == [(1, 2), (2, 4), (3, 6)]
    assert [sum(step.events.values()) for step in counter.steps] == [1, 1, 1]


def test_a_step_that_records_is_not_quiet():
    counter = StepCounter(Runtime(), edge_steps=0)
    counter.begin(1)
    counter.record()
    counter.end()
    assert [step.quiet for step in counter.steps] == [False]


def test_in_the_backward_pass_the_node_stands_for_a_stack():
    found = []
    weight = torch.ones(1, requires_grad=True)
    weight.register_hook(lambda gradient: found.append(counting._backward_node()))
    weight.exp().backward()
    assert [node[0].split()[0] for node in found] == ["autograd:0"]
    assert counting._backward_node() == ()


def test_a_stack_begins_at_its_innermost_frame():
    class Outer:
        def call(self):
            return stack_of(sys._getframe())

    first, second = Outer().call()[:2]
    assert first.startswith("tests/unit/rehearsal/test_counting.py:")
    assert first.endswith("Outer.call")
    assert second.endswith("test_a_stack_begins_at_its_innermost_frame")
