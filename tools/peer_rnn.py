"""The weight step of a search of recurrent cells in eager PyTorch: what `bench_rnn` compares with.

Written from the formulas of arXiv 1806.09055 and its appendix, operation by operation as one writes
them in PyTorch. It learns from the same numbers as the step of this package; masks of dropout it is
given, so that both compute the same loss.

Letters: T time, N batch, V words, H width, M nodes, E edges, K operations, J earlier states.
"""

import torch
from torch.nn import functional

ACTIVATIONS = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "identity": lambda x: x,
}


class Peer:
    """The language model over all candidates, and plain SGD on its weights."""

    def begin(self, params, mixture, operations, *, temporal, clip_norm, weight_decay):
        """Begins anew.

        params: {"embedding": f[V, H], "bias": f[V], "cell": {"first": f[2H, 2H], "nodes": f[M, H,
        2H]}}, arrays.  mixture: f[E, K], weights of the operations.  operations: their names.
        temporal: weight of the penalty on changes of the outputs.  clip_norm, weight_decay: of SGD.
        """
        self.embedding, self.bias, self.first = (
            torch.tensor(one, requires_grad=True)
            for one in (params["embedding"], params["bias"], params["cell"]["first"])
        )
        self.nodes = [torch.tensor(one, requires_grad=True) for one in params["cell"]["nodes"]]
        self.mixture, self.operations = torch.tensor(mixture), operations
        self.temporal, self.clip_norm = temporal, clip_norm
        width = self.first.shape[1] // 2
        self.mean, self.variance = torch.zeros(width), torch.ones(width)
        self.weights = [self.embedding, self.first, *self.nodes, self.bias]
        self.sgd = torch.optim.SGD(self.weights, lr=0.0, weight_decay=weight_decay)

    def carry(self, hidden):
        """Takes the hidden state f[N, H] that the next step begins with."""
        self.hidden = torch.from_numpy(hidden)

    def give(self, tokens, targets, masks, starts):
        """Takes what the next step sees: int64[T, N], int64[T, N], masks by name; starts: whether a
        text begins there, and the hidden state is zero.
        """
        self.seen, self.starts = (torch.from_numpy(tokens), torch.from_numpy(targets)), starts
        self.masks = {name: torch.from_numpy(one) for name, one in masks.items()}

    def step(self, rate):
        """Returns (mean loss of a word without the penalty, norm of the gradient) after one step of
        SGD.
        """
        (tokens, targets), masks = self.seen, self.masks
        hidden = self.hidden * 0 if self.starts else self.hidden
        for group in self.sgd.param_groups:
            group["lr"] = rate
        self.sgd.zero_grad()
        embedding = self.embedding
        if "embedding" in masks:
            embedding = embedding * masks["embedding"][:, None]
        x = embedding[tokens]
        for name in ("input", "cell_input"):
            if name in masks:
                x = x * masks[name]
        outputs = []
        for now in x:
            hidden = self.cell(now, hidden, masks.get("hidden"))
            outputs.append(hidden)
        self.hidden = hidden.detach()
        raw = torch.stack(outputs)
        dropped = raw * masks["output"] if "output" in masks else raw
        logits = functional.linear(dropped, self.embedding, self.bias)
        loss = functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        penalty = (raw[1:] - raw[:-1]).square().mean()
        (loss + self.temporal * penalty).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.weights, self.clip_norm)
        self.sgd.step()
        return float(loss.detach()), float(norm)

    def product(self, square):
        """Multiplies a matrix by itself."""
        square = torch.from_numpy(square)
        torch.matmul(square, square)

    def cell(self, x, hidden, mask):
        """Returns the hidden state f[N, H] after one word."""

        def masked(states):
            return states if mask is None else states * mask

        gate, candidate = (torch.cat([x, masked(hidden)], -1) @ self.first).chunk(2, -1)
        start = hidden + gate.sigmoid() * (candidate.tanh() - hidden)
        states = self.normalised(start)[None]
        offset = 0
        for matrix in self.nodes:
            gates, candidates = (masked(states) @ matrix).chunk(2, -1)
            gates = gates.sigmoid()
            rows = self.mixture[offset : offset + len(states)]
            state = torch.zeros_like(hidden)
            for k, name in enumerate(self.operations):
                if name != "none":
                    moved = states + gates * (ACTIVATIONS[name](candidates) - states)
                    state = state + (rows[:, k, None, None] * moved).sum(0)
            states = torch.cat([states, self.normalised(state)[None]])
            offset += len(rows)
        return states[1:].mean(0)

    def normalised(self, x):
        """Returns x under the one batch norm, whose running statistics move."""
        return functional.batch_norm(x, self.mean, self.variance, training=True)
