"""Batches made ahead of their use by one thread, and on a GPU copied there while it computes with others."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


@contextmanager
def ahead(
    planned: Iterable[T], prepare: Callable[[T], Any], device: torch.device, most: int = 4
) -> Iterator[Iterator[tuple[T, Any]]]:
    """What is planned, each with its batch, in order.

    One thread asks for what is planned and prepares it, never more than `most` batches ahead; what it makes does not
    depend on when. An error of either comes out where its batch would have. At the end the thread is waited for.

    Args:
        planned: may be endless.
        prepare: makes a batch of CPU tensors, in mappings and lists.
        device: where batches are used; those of a GPU are there when they are given out.
        most: batches held ready.
    """
    source = iter(planned)
    mover = _Mover(device) if device.type == "cuda" else None

    def following() -> tuple[T, Any, Any] | None:
        for item in source:
            batch = prepare(item)
            return (item, batch, None) if mover is None else (item, *mover.send(batch))
        return None

    def ready() -> Iterator[tuple[T, Any]]:
        waiting: deque[Future] = deque(pool.submit(following) for _ in range(most))
        while (found := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(following))
            item, batch, sent = found
            if mover is not None:
                mover.receive(batch, sent)
            yield item, batch

    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prepare")
    try:
        yield ready()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _Mover:
    """Copies batches to a GPU on a stream of their own, beside what is computed.

    From pinned memory a copy waits for nobody; PyTorch's allocators keep pinned memory until the copy that reads it is
    done, and the batch's until the streams that were recorded for it have used it.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.stream = device, torch.cuda.Stream(device)

    def send(self, batch: Any) -> tuple[Any, Any]:
        """The batch on its way to the GPU, and the event of its arrival; by the thread that prepares."""
        with torch.cuda.device(self.device), torch.cuda.stream(self.stream):
            moved = to_device(_pinned(batch), self.device)
            return moved, self.stream.record_event()

    def receive(self, batch: Any, sent: Any) -> None:
        """Let what is computed next wait for the batch's arrival; by the thread that computes."""
        computing = torch.cuda.current_stream(self.device)
        computing.wait_event(sent)
        for tensor in _tensors(batch):
            tensor.record_stream(computing)


def to_device(value: Any, device: torch.device) -> Any:
    """Tensors in mappings and lists moved to the device; from pinned memory without waiting."""
    return _each(value, lambda tensor: tensor.to(device, non_blocking=True))


def _pinned(value: Any) -> Any:
    return _each(value, lambda tensor: tensor if tensor.is_cuda or tensor.is_pinned() else tensor.pin_memory())


def _each(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _each(inner, change) for key, inner in value.items()}
    return [_each(inner, change) for inner in value] if isinstance(value, list | tuple) else value


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(inner)
