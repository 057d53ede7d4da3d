"""Memory that is kept is a thread's own."""

import threading

from dlrm.preprocess.memory import Scratch


def test_a_thread_gets_its_own_memory_again_and_another_thread_other_memory():
    scratch = Scratch()
    first = scratch.words(10, 4)
    first[:] = 7
    again = scratch.words(5, 3)
    assert again.shape == (5, 3)
    assert (again == 7).all()
    others = []
    thread = threading.Thread(target=lambda: others.append(scratch.words(10, 4)))
    thread.start()
    thread.join()
    others[0][:] = 9
    assert (first == 7).all()


def test_more_than_before_is_larger_memory():
    scratch = Scratch()
    scratch.words(2, 2)
    assert scratch.words(100, 3).shape == (100, 3)
