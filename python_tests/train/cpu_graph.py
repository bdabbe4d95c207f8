"""A stand-in on the CPU for recording work as a CUDA graph; no test is here."""

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten


class Recorder(TorchDispatchMode):
    """Keeps every operation with the very tensors it read and made.

    As in a CUDA graph, a replay runs the same operations on the same memory, so that what Python computed on the host
    (numbers, choices, shapes) stays what it was. Reading a number off the device is an error, as it is there.
    """

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.name() == "aten::_local_scalar_dense":
            raise RuntimeError(f"waits for the device: {function}")
        out = function(*args, **(kwargs or {}))
        self.operations.append((function, args, kwargs or {}, out))
        return out

    def replay(self):
        with torch._C._AutoDispatchBelowAutograd():  # the backward pass is among the operations
            for function, args, kwargs, out in self.operations:
                again = function(*args, **kwargs)
                read = {address(x) for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)}
                for old, new in zip(tree_flatten(out)[0], tree_flatten(again)[0], strict=True):
                    if isinstance(old, Tensor) and address(old) not in read:  # not a view, not written in place
                        old.copy_(new)


def address(x):
    return x.untyped_storage().data_ptr()


def state_of(*holders):
    """The tensors of modules and optimizers, for `put_back`."""
    tensors = []
    for holder in holders:
        if hasattr(holder, "param_groups"):
            tensors += [x for state in holder.state.values() for x in state.values()]
        else:
            tensors += [*holder.parameters(), *holder.buffers()]
    return [(x, x.detach().clone()) for x in tensors]


def put_back(state):
    for x, before in state:
        x.data.copy_(before)
