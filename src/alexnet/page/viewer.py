"""What the page shows of a network: its answers to a picture, where it looked, what its layers give."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from alexnet.compute import Compute
from alexnet.data.images import Picture, as_views, central_square
from alexnet.errors import UsageError, unknown
from alexnet.figures.bitmaps import data_uri, encode, sheet
from alexnet.figures.maps import blend_heat, colour_maps
from alexnet.inference.forward import layer_outputs
from alexnet.inference.gradcam import grad_cam, last_maps
from alexnet.inference.neighbours import hidden_layer
from alexnet.inference.trained import Trained
from alexnet.models.summary import trace

TOP = 5
SHOWN = 320  # pixels that a picture is shown with, and enlarged to where it has fewer
MOST_MAPS = 384


class Viewer:
    """A trained network that is asked about one picture at a time; its methods return what JSON can hold."""

    def __init__(self, trained: Trained, compute: Compute) -> None:
        self.trained, self.compute = trained, compute
        self.channels = trained.model.variant.in_channels
        if self.channels not in (1, 3):
            raise UsageError(f"{trained.origin} takes images of {self.channels} channels: pictures have 1 or 3.")
        self.layers = {layer.name: layer.out_shape for layer in trace(trained.model.variant) if layer.kind != "flatten"}
        self.hidden = hidden_layer(trained.model)
        self.output = list(dict(trained.model.named_children()))[-1]
        try:
            self.looked_at: str | None = last_maps(trained.model)
        except UsageError:
            self.looked_at = None

    def answer(self, picture: Picture) -> dict[str, Any]:
        """The most probable classes with their probabilities, best first; the picture as the network sees it; and upon
        it Grad-CAM's heat for the best class, where the network has maps."""
        images = self._prepare(picture)
        probabilities = self._outputs(images, self.output).softmax(dim=1)[0]
        best = probabilities.topk(min(TOP, len(probabilities)))
        prep = self.trained.preprocessing
        seen = _enlarge(central_square(picture.pixels, prep, prep.size))
        shown: dict[str, Any] = {
            "classes": [
                {"name": self.trained.names[label], "probability": value}
                for label, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)
            ],
            "notes": list(picture.notes),
            "seen": data_uri(encode(seen, jpeg=True)),
            "heat": None,
        }
        if self.looked_at is not None:
            with self.compute.settings():
                heat = grad_cam(self.trained.model, images, best.indices[:1].cpu(), self.compute, self.looked_at)[0]
            smooth = Image.fromarray(heat.cpu().numpy()).resize(seen.shape[1::-1], Image.Resampling.BILINEAR)
            shown["heat"] = data_uri(encode(blend_heat(seen, np.asarray(smooth).clip(0, 1)), jpeg=True))
        return shown

    def maps(self, picture: Picture, layer: str, across: int = 16) -> dict[str, Any]:
        """What a layer answers as one picture, with a sentence about it: its maps, `across` of them side by side, or
        its numbers. Raises UsageError for a layer that the network does not have."""
        if layer not in self.layers:
            raise UsageError(unknown("layer", layer, self.layers))
        values = self._outputs(self._prepare(picture), layer)[0].cpu().numpy()
        shape = "x".join(map(str, values.shape))
        zero, peak = float((values == 0).mean()), float(np.abs(values).max())
        if values.ndim == 3:
            shown = values[:MOST_MAPS]
            what = f"{values.shape[0]} maps of {values.shape[1]}x{values.shape[2]}"
            what += f", the first {MOST_MAPS} are shown" if len(values) > MOST_MAPS else ""
            pixels = sheet(colour_maps(shown), across)
        else:
            side = int(np.ceil(np.sqrt(len(values))))
            what = f"{shape} numbers, row by row"
            scaled = values[None, None] / (peak or 1.0)  # one scale for all: they are no maps
            pixels = sheet(colour_maps(scaled)[0, 0][:, None, None], side, gap=0)
        text = f"{layer}: {what}; {zero:.0%} of the values are zero, the largest is {peak:.3g}."
        return {"layer": layer, "picture": data_uri(encode(pixels)), "text": text, "width": int(pixels.shape[1])}

    def features(self, picture: Picture) -> Tensor:
        """What the last hidden layer answers, [1, D]."""
        return self._outputs(self._prepare(picture), self.hidden).flatten(1)

    def _prepare(self, picture: Picture) -> Tensor:
        return as_views(picture, self.trained.preprocessing)

    def _outputs(self, images: Tensor, layer: str) -> Tensor:
        with torch.inference_mode(), self.compute.settings():
            (found,) = layer_outputs(self.trained.model, [images], [layer], self.compute)
        return found[layer]


def _enlarge(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Every pixel repeated until a side has about `SHOWN` of them."""
    times = max(1, round(SHOWN / max(pixels.shape[:2])))
    return pixels.repeat(times, axis=0).repeat(times, axis=1)
