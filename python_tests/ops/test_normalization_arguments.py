"""group_norm_silu: the raw ops, and what it refuses."""

import pytest
import torch
from torch.library import opcheck

import dgmkern

OPS = torch.ops.dgmkern
LAST = torch.channels_last


def raw(layout=torch.contiguous_format, *, given=True):
    x, grad, weight, bias, scale, shift = (torch.randn(s) for s in ((2, 6, 4, 3),) * 2 + ((6,),) * 2 + ((2, 6),) * 2)
    parameters = (weight, bias, scale, shift)
    parameters = [p.requires_grad_() if given else None for p in parameters]
    x = x.contiguous(memory_format=layout).requires_grad_()
    mean, rstd = (t.detach() for t in OPS.group_norm_silu(x, 3, *parameters, 1e-5)[1:])
    return (x, 3, *parameters, 1e-5), (grad.requires_grad_(), x, mean, rstd, *parameters, 3, 1e-5)


@pytest.mark.parametrize("layout", [torch.contiguous_format, LAST], ids=str)
@pytest.mark.parametrize("given", [False, True])
def test_opcheck(layout, given):
    forward, backward = raw(layout, given=given)
    opcheck(OPS.group_norm_silu.default, forward)
    opcheck(OPS.group_norm_silu_backward.default, backward)


def test_raw_ops_refuse_shapes_that_do_not_fit():
    for op, args in zip((OPS.group_norm_silu, OPS.group_norm_silu_backward), raw(), strict=True):
        first = 1 if op is OPS.group_norm_silu else 0  # x of the forward op is the measure
        for i, arg in enumerate(args):
            if not isinstance(arg, torch.Tensor) or i < first:
                continue
            for wrong in (torch.randn(1, 3, 4), arg.detach().long()):
                spoiled = [a.detach() if isinstance(a, torch.Tensor) else a for a in args]
                spoiled[i] = wrong
                with pytest.raises(ValueError, match="expected"):
                    op(*spoiled)
    x = torch.randn(2, 6, 4)
    for groups in (0, -3, 4, 7):
        with pytest.raises(ValueError, match="groups"):
            OPS.group_norm_silu(x, groups, None, None, None, None, 1e-5)


X = torch.randn(2, 6, 4)
PER_CHANNEL, PER_SAMPLE = torch.randn(6), torch.randn(2, 6)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: dgmkern.group_norm_silu(X.int(), 2, None, None), TypeError, "x: .*int32"),
        (lambda: dgmkern.group_norm_silu([1.0], 2, None, None), TypeError, "x: .*list"),
        (lambda: dgmkern.group_norm_silu(X[0, 0], 2, None, None), ValueError, r"x: .*\(4,\)"),
        (lambda: dgmkern.group_norm_silu(X, 4, None, None), ValueError, "groups: .*6 channels.*4"),
        (lambda: dgmkern.group_norm_silu(X, 0, None, None), ValueError, "groups"),
        (lambda: dgmkern.group_norm_silu(X, 2.0, None, None), TypeError, "groups: .*float"),
        (lambda: dgmkern.group_norm_silu(X, True, None, None), TypeError, "groups: .*bool"),
        (lambda: dgmkern.group_norm_silu(X, 2, PER_CHANNEL[:5], None), ValueError, r"weight: .*\(6,\).*\(5,\)"),
        (lambda: dgmkern.group_norm_silu(X, 2, None, PER_SAMPLE), ValueError, r"bias: .*\(6,\).*\(2, 6\)"),
        (lambda: dgmkern.group_norm_silu(X, 2, None, None, scale=PER_CHANNEL), ValueError, r"scale: .*\(2, 6\)"),
        (lambda: dgmkern.group_norm_silu(X, 2, None, None, shift=PER_SAMPLE.t()), ValueError, "shift"),
        (lambda: dgmkern.group_norm_silu(X, 2, PER_CHANNEL.double(), None), TypeError, "weight: .*float64"),
        (lambda: dgmkern.group_norm_silu(X, 2, PER_CHANNEL.int(), None), TypeError, "weight: .*int32"),
        (lambda: dgmkern.group_norm_silu(X, 2, PER_CHANNEL.to("meta"), None), ValueError, "weight: .*meta"),
        (lambda: dgmkern.group_norm_silu(X, 2, None, None, eps=-1.0), ValueError, "eps: .*-1"),
        (lambda: dgmkern.group_norm_silu(X, 2, None, None, eps="small"), TypeError, "eps: .*str"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
