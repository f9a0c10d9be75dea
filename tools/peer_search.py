"""The search of convolutional cells in eager PyTorch: what `bench_search` compares with.

Written from arXiv 1806.09055, one call an operation and an edge, as the original's structure is:
weights under the original's names, gradients of a loss by all that it depends on, the mixed second
derivative as a central difference.
"""

import torch
from torch import nn
from torch.nn import functional

RADIUS = 0.01  # of the central difference, over the norm of its direction


def norm(channels, affine=False):
    """Returns a batch norm."""
    return nn.BatchNorm2d(channels, affine=affine)


def depthwise(channels, side, stride, dilation):
    """Returns a convolution of each channel by itself."""
    padding = dilation * (side - 1) // 2
    shape = {"stride": stride, "padding": padding, "dilation": dilation}
    return nn.Conv2d(channels, channels, side, groups=channels, bias=False, **shape)


def pointwise(channels_in, channels, stride=1):
    """Returns a 1x1 convolution."""
    return nn.Conv2d(channels_in, channels, 1, stride=stride, bias=False)


class Chain(nn.Module):
    """Modules one after the other, under the name that the original has for them."""

    def __init__(self, *parts):
        super().__init__()
        self.op = nn.Sequential(*parts)

    def forward(self, x):
        """Returns maps of maps, f[N, C, H, W]."""
        return self.op(x)


class Halved(nn.Module):
    """Half the height and width: two 1x1 convolutions, of even and of odd rows and columns."""

    def __init__(self, channels_in, channels):
        super().__init__()
        self.conv_1 = pointwise(channels_in, channels - channels // 2, 2)
        self.conv_2 = pointwise(channels_in, channels // 2, 2)
        self.bn = norm(channels)

    def forward(self, x):
        """Returns maps of maps, f[N, C, H, W]."""
        x = x.relu()
        return self.bn(torch.cat([self.conv_1(x), self.conv_2(x[:, :, 1:, 1:])], 1))


class Zero(nn.Module):
    """Zeros, of half the height and width at stride 2."""

    def __init__(self, stride):
        super().__init__()
        self.stride = stride

    def forward(self, x):
        """Returns maps of maps, f[N, C, H, W]."""
        return x[:, :, :: self.stride, :: self.stride] * 0.0


def operation(name, channels, stride):
    """Returns one candidate as a module."""
    if name == "none":
        return Zero(stride)
    if name == "skip_connect":
        return nn.Identity() if stride == 1 else Halved(channels, channels)
    if name == "max_pool_3x3":
        return nn.Sequential(nn.MaxPool2d(3, stride, 1), norm(channels))
    if name == "avg_pool_3x3":
        pool = nn.AvgPool2d(3, stride, 1, count_include_pad=False)
        return nn.Sequential(pool, norm(channels))
    side, dilation = int(name[-1]), 2 if name.startswith("dil") else 1

    def block(stride):
        spread = depthwise(channels, side, stride, dilation)
        return nn.ReLU(), spread, pointwise(channels, channels), norm(channels)

    return Chain(*block(stride), *(block(1) if name.startswith("sep") else ()))


class Mixed(nn.Module):
    """All candidates of an edge, weighed and added."""

    def __init__(self, operations, channels, stride):
        super().__init__()
        self._ops = nn.ModuleList(operation(name, channels, stride) for name in operations)

    def forward(self, x, weights):
        """Returns the mixture f[N, C, H, W] under weights f[K]."""
        return sum(weight * op(x) for weight, op in zip(weights, self._ops, strict=True))


class Cell(nn.Module):
    """A cell over all candidates."""

    def __init__(self, operations, nodes, before, inputs, channels, *, reduction, halve):
        super().__init__()
        self.nodes = nodes
        ready = (nn.ReLU(), pointwise(before, channels), norm(channels))
        self.preprocess0 = Halved(before, channels) if halve else Chain(*ready)
        self.preprocess1 = Chain(nn.ReLU(), pointwise(inputs, channels), norm(channels))
        self._ops = nn.ModuleList(
            Mixed(operations, channels, 2 if reduction and source < 2 else 1)
            for node in range(nodes)
            for source in range(2 + node)
        )

    def forward(self, before, last, weights):
        """Returns the cell's maps under weights f[E, K]."""
        states, offset = [self.preprocess0(before), self.preprocess1(last)], 0
        for _ in range(self.nodes):
            edges = enumerate(states, offset)
            node = sum(self._ops[edge](state, weights[edge]) for edge, state in edges)
            offset += len(states)
            states.append(node)
        return torch.cat(states[2:], 1)


class Network(nn.Module):
    """The search network with the stem for small pictures."""

    def __init__(self, operations, nodes, channels, layers, classes, reductions):
        super().__init__()
        width = 3 * channels
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=False), norm(width, True))
        self.cells, self.reductions = nn.ModuleList(), reductions
        before, inputs, halve = width, width, False
        for at in range(layers):
            reduction = at in reductions
            channels *= 2 if reduction else 1
            ways = {"reduction": reduction, "halve": halve}
            self.cells.append(Cell(operations, nodes, before, inputs, channels, **ways))
            before, inputs, halve = inputs, nodes * channels, reduction
        self.classifier = nn.Linear(inputs, classes)

    def forward(self, x, alphas):
        """Returns logits f[N, classes]."""
        before = last = self.stem(x)
        for at, cell in enumerate(self.cells):
            weights = alphas["reduce" if at in self.reductions else "normal"].softmax(-1)
            before, last = last, cell(before, last, weights)
        return self.classifier(last.mean((2, 3)))


class Peer:
    """The three steps of a search: of the weights, and of the alphas in first and second order."""

    def begin(self, sizes, state, alphas, batches, weights, adam):
        """Begins anew.

        sizes: of `Network`.  state: names -> arrays of it.  alphas: {"normal", "reduce"}: f[E, K],
        by node.  batches: {"train", "valid"}: (f[N, C, H, W], int64[N]).  weights: momentum,
        weight_decay, clip_norm.  adam: settings of Adam.
        """
        self.network, self.settings = Network(**sizes), weights
        named = {name: torch.tensor(array) for name, array in state.items()}
        missing, unknown = self.network.load_state_dict(named, strict=False)
        assert not unknown and all(name.endswith("num_batches_tracked") for name in missing)
        self.params = list(self.network.parameters())
        self.alphas = {name: torch.tensor(a, requires_grad=True) for name, a in alphas.items()}
        self.batches = {
            name: tuple(map(torch.from_numpy, batch)) for name, batch in batches.items()
        }
        settings = {name: weights[name] for name in ("momentum", "weight_decay")}
        self.sgd = torch.optim.SGD(self.params, lr=0.0, **settings)
        self.adam = torch.optim.Adam(self.alphas.values(), **adam)

    def loss(self, name):
        """Returns the mean loss of a batch in training."""
        images, labels = self.batches[name]
        return functional.cross_entropy(self.network(images, self.alphas), labels)

    def weight(self, rate):
        """Returns (loss, norm of the gradient) before one step of SGD."""
        for group in self.sgd.param_groups:
            group["lr"] = rate
        self.sgd.zero_grad()
        loss = self.loss("train")
        loss.backward()
        size = torch.nn.utils.clip_grad_norm_(self.params, self.settings["clip_norm"])
        self.sgd.step()
        return float(loss.detach()), float(size)

    def first(self, rate):
        """Returns (validation loss, norm of the alpha gradient) of one step of Adam."""
        del rate
        self._clear()
        loss = self.loss("valid")
        loss.backward()
        return self._move_alphas(loss)

    def second(self, rate):
        """Returns (validation loss after a virtual step, norm of the alpha gradient) of one step of
        Adam (eq. 7 and 8).
        """
        self._clear()
        grads = torch.autograd.grad(self.loss("train"), self.params)
        here = [p.detach().clone() for p in self.params]
        with torch.no_grad():
            for p, g in zip(self.params, grads, strict=True):
                buffer = self.sgd.state[p].get("momentum_buffer", 0.0)
                moved = self.settings["momentum"] * buffer + g + self.settings["weight_decay"] * p
                p.sub_(rate * moved)
                p.grad = None
        loss = self.loss("valid")
        loss.backward()
        vector = [p.grad for p in self.params]
        radius = RADIUS / torch.stack([v.norm() for v in vector]).norm()
        ends = []
        for sign in (1, -1):
            self._put(here, vector, sign * radius)
            alphas = list(self.alphas.values())
            ends.append(torch.autograd.grad(self.loss("train"), alphas, materialize_grads=True))
        self._put(here, vector, 0.0)
        with torch.no_grad():
            for alpha, plus, minus in zip(self.alphas.values(), *ends, strict=True):
                alpha.grad -= rate * (plus - minus) / (2 * radius)
        return self._move_alphas(loss)

    def _clear(self):
        """Sets the alphas' gradients to zero, also those of a kind of cell that is not there."""
        for alpha in self.alphas.values():
            alpha.grad = torch.zeros_like(alpha)

    def _put(self, here, vector, scale):
        with torch.no_grad():
            for p, w, v in zip(self.params, here, vector, strict=True):
                p.copy_(w + scale * v)

    def _move_alphas(self, loss):
        size = torch.stack([alpha.grad.norm() for alpha in self.alphas.values()]).norm()
        self.adam.step()
        return float(loss.detach()), float(size)
