"""Where ChatGLM-6B's tokens stand, and which of them see which.

A row is a context up to <sop>, then an answer. The context reads itself in both directions, the
answer only what is before it. A position has two coordinates: in the context (i, 0), from <sop> on
(index of [gMASK], how many tokens after the context). Sources: arXiv:2103.10360 and the published
modeling_chatglm.py.
"""

import torch


def context_lengths(input_ids: torch.Tensor, sop: int) -> torch.Tensor:
    """Index of the first <sop> of each row: [rows]. `input_ids` is [rows, tokens].

    Raises ValueError when a row has no <sop>.
    """
    starts = input_ids == sop
    if not bool(starts.any(dim=1).all()):
        raise ValueError("a row holds no <sop>, which marks where ChatGLM-6B's answer begins")
    return starts.int().argmax(dim=1)


def position_ids(
    input_ids: torch.Tensor, attention_mask: torch.Tensor | None, sop: int, gmask: int, mask: int
) -> torch.Tensor:
    """Both coordinates of every token: [rows, 2, tokens].

    A row without [gMASK] takes the place of [MASK] instead, as the original does. Padding on the
    left does not count: to a P-tuning prefix, which has no position, it would be a distance.
    """
    contexts = context_lengths(input_ids, sop).unsqueeze(1)
    is_gmask = input_ids == gmask
    blank = torch.where(is_gmask.any(dim=1, keepdim=True), is_gmask, input_ids == mask)
    index = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
    in_context = index < contexts
    place = torch.where(in_context, index, blank.int().argmax(dim=1, keepdim=True))
    block = torch.where(in_context, 0, index - contexts + 1)
    if attention_mask is not None:
        place = place - attention_mask.int().argmax(dim=1, keepdim=True)
    return torch.stack((place, block), dim=1)


def visible(
    contexts: torch.Tensor, tokens: int, attention_mask: torch.Tensor | None
) -> torch.Tensor:
    """Which keys (last axis) each query may see, True for visible: [rows, 1, tokens, tokens].

    `contexts` [rows] are context lengths; `attention_mask` [rows, tokens] is 0 on padding. Every
    token sees itself, so that padding stays finite.
    """
    index = torch.arange(tokens, device=contexts.device)
    seen = (index <= index.unsqueeze(1)) | (index < contexts.view(-1, 1, 1))
    if attention_mask is not None:
        seen = seen & attention_mask.bool().unsqueeze(1)
    return (seen | torch.eye(tokens, dtype=torch.bool, device=contexts.device)).unsqueeze(1)
