import threading
import time

import pytest
import torch

from uniter.training.ahead import ahead

CPU = torch.device("cpu")


def others():
    return [thread for thread in threading.enumerate() if thread.name.startswith("prepare")]


def test_everything_comes_in_order_from_one_thread():
    threads = set()

    def planned():
        for number in range(20):
            threads.add(threading.current_thread().name)
            yield number

    def prepare(number):
        threads.add(threading.current_thread().name)
        time.sleep(0.002 * (number % 3))
        return {"x": torch.tensor(number)}

    with ahead(planned(), prepare, CPU) as prepared:
        assert [(number, int(batch["x"])) for number, batch in prepared] == [(n, n) for n in range(20)]
    assert len(threads) == 1 and threading.current_thread().name not in threads and not others()


@pytest.mark.parametrize("most", [1, 4])
def test_no_more_than_was_said_are_made_ahead(most):
    made = []
    with ahead(iter(int, 1), lambda _: made.append(1), CPU, most) as prepared:  # endless
        for used in range(6):
            next(prepared)
            deadline = time.monotonic() + 5
            while len(made) < used + 1 + most and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(0.01)
            assert len(made) == used + 1 + most  # those given out, and those held
    assert not others()


@pytest.mark.parametrize("where", ["plan", "prepare"])
def test_an_error_comes_out_where_its_batch_would_have(where):
    def planned():
        yield from range(3)
        if where == "plan":
            raise ValueError("broken at 3")
        yield 3

    def prepare(number):
        if number == 3:
            raise ValueError("broken at 3")
        return number

    seen = []
    with pytest.raises(ValueError, match="broken at 3"), ahead(planned(), prepare, CPU) as prepared:
        for number, _ in prepared:
            seen.append(number)
    assert seen == [0, 1, 2] and not others()


def test_leaving_early_stops_the_thread():
    made = []
    with pytest.raises(KeyError), ahead(iter(int, 1), lambda _: made.append(time.sleep(0.01)), CPU) as prepared:
        next(prepared)
        raise KeyError
    count = len(made)
    time.sleep(0.05)
    assert len(made) == count and not others()
    with ahead(range(3), lambda _: 1 / 0, CPU):
        pass  # an error that nobody waits for is nobody's


@pytest.mark.gpu
def test_a_gpu_gets_what_was_made():
    device = torch.device("cuda")
    prepare = lambda number: {"x": torch.full((1 << 20,), float(number)), "rest": [torch.tensor([number]), "text"]}
    with ahead(range(40), prepare, device) as prepared:
        for number, batch in prepared:
            assert batch["x"].is_cuda and batch["rest"][1] == "text"
            busy = torch.randn(2048, 2048, device=device)
            for _ in range(5):
                busy = busy @ busy / 50
            total = (batch["x"].double() * 2).sum() + batch["rest"][0].sum()
            del batch
            assert int(total) == (2 << 20) * number + number
