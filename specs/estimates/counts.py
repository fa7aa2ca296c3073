"""Numbers that a spec implies, in exact arithmetic: parameters, tokens, steps, floating-point operations."""

from dataclasses import dataclass

from specs.schema.training import Architecture, Pretraining, Training


@dataclass(frozen=True)
class Parameters:
    """Weights of a decoder, by part."""

    embedding: int
    attention: int
    feed_forward: int
    norms: int
    output: int
    """Output projection; 0 where it is tied to the embedding."""

    @property
    def total(self) -> int:
        """All weights."""
        return self.embedding + self.attention + self.feed_forward + self.norms + self.output

    @property
    def multiplied(self) -> int:
        """Weights that take part in a matrix product for each token: all but the embedding look-up and the norms."""
        return self.attention + self.feed_forward + (self.output or self.embedding)


def parameters(architecture: Architecture, vocab_size: int) -> Parameters:
    """Count the weights of `model.decoder.transformer`: no biases, SwiGLU with three matrices, RMSNorm gains."""
    d, layers = architecture.d_model, architecture.n_layers
    kv_width = architecture.kv_heads * architecture.head_dim
    return Parameters(
        embedding=vocab_size * d,
        attention=layers * (2 * d * d + 2 * d * kv_width),
        feed_forward=layers * 3 * d * architecture.d_ff,
        norms=(2 * layers + 1) * d,
        output=0 if architecture.tie_embeddings else vocab_size * d,
    )


def attended_pairs(architecture: Architecture) -> int:
    """Query-key pairs over all layers for one sequence of full length that is one document."""
    length = architecture.context_length
    windows = [window or length for window in architecture.attention.windows(architecture.n_layers)]
    return sum(window * length - window * (window - 1) // 2 for window in windows)


def flops_per_sequence(architecture: Architecture, vocab_size: int) -> int:
    """Floating-point operations of forward and backward over one sequence, without recomputation.

    6 N T for matrix products (N weights that multiply, T tokens; Kaplan et al. 2020) and 12 d for each query-key pair
    (two products of 2 d operations, three times for forward and backward; PaLM, Chowdhery et al. 2022, appendix B, with
    pairs counted rather than T squared). For full causal attention this is 6NT + 6LT(T+1)d.
    """
    matrix = 6 * parameters(architecture, vocab_size).multiplied * architecture.context_length
    return matrix + 12 * architecture.d_model * attended_pairs(architecture)


def sequences_per_step(training: Training) -> int:
    """Sequences in the global batch."""
    return training.micro_batches * training.micro_batch_size


def sub_steps(training: Training, ranks: int) -> int:
    """Micro-batches that each of so many ranks computes in a step; in the last one some ranks may have none."""
    return -(-training.micro_batches // ranks)


def tokens_per_step(training: Training, architecture: Architecture) -> int:
    """Tokens in the global batch."""
    return sequences_per_step(training) * architecture.context_length


def pretraining_steps(pretraining: Pretraining, architecture: Architecture) -> int:
    """Steps until at least `tokens` have been seen."""
    return -(-pretraining.tokens // tokens_per_step(pretraining, architecture))


def epoch_steps(training: Training, epochs: int, slots: int) -> int:
    """Steps until each of `slots` sequences has been seen `epochs` times; the last step may begin another epoch."""
    return -(-epochs * slots // sequences_per_step(training))
