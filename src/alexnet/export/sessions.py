"""ONNX models run by onnxruntime as if they were networks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from alexnet.errors import UsageError
from alexnet.export.graph import Form

try:
    import onnxruntime
except ImportError:
    raise UsageError("checking ONNX files needs onnxruntime: pip install 'alexnet[export]'") from None


class Session(nn.Module):
    """Images [N, C, S, S], normalised or pixels of 0 to 255 as the model's form has it, to logits [N, K]."""

    def __init__(self, content: bytes, form: Form) -> None:
        super().__init__()
        self.form = form
        self._session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def forward(self, images: Tensor) -> Tensor:
        (logits,) = self._session.run(["logits"], feed(images, self.form))
        return torch.from_numpy(logits)


def open_session(model: Any, form: Form) -> Session:
    """A session of an ONNX model in memory."""
    return Session(model.SerializeToString(), form)


def feed(images: Tensor, form: Form) -> dict[str, Any]:
    """Images [N, C, S, S] as a model of this form takes them."""
    if not form.raw:
        images = images.round().to(torch.uint8) if images.is_floating_point() else images
        images = images.permute(0, 2, 3, 1) if form.layout == "nhwc" else images
    return {"images": images.contiguous().numpy()}
